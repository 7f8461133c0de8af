"""Backdoor attacks: one file each, one line each in `catalog.py`."""

from w2sdefense.attacks.base import Attack as Attack, count_lost as count_lost
from w2sdefense.attacks.catalog import (
    ATTACKS as ATTACKS,
    AttackConfig as AttackConfig,
    TestConfig as TestConfig,
    attack_from_trigger as attack_from_trigger,
    make_attack as make_attack,
)
