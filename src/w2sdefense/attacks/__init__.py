"""Backdoor attacks: one file each, one line each in `catalog.py`."""

from w2sdefense.attacks.base import Attack, count_lost
from w2sdefense.attacks.catalog import (
    ATTACKS,
    AttackConfig,
    TestConfig,
    attack_from_trigger,
    make_attack,
)

__all__ = [
    "ATTACKS",
    "Attack",
    "AttackConfig",
    "TestConfig",
    "attack_from_trigger",
    "count_lost",
    "make_attack",
]
