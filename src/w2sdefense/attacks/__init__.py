"""Backdoor attacks: one file each, one table of names."""

from __future__ import annotations

from w2sdefense.attacks.badnet import BadNet
from w2sdefense.attacks.base import Attack
from w2sdefense.attacks.insent import InSent
from w2sdefense.config import AttackConfig, Place, load_settings

ATTACKS: dict[str, type[Attack]] = {
    "badnet": BadNet,
    "insent": InSent,
}

__all__ = ["ATTACKS", "Attack", "attack_from_trigger", "make_attack"]


def make_attack(config: AttackConfig) -> Attack:
    """The attack that the settings ask for."""
    return ATTACKS[config.attack].from_config(config)


def attack_from_trigger(text_or_name: str, place: Place) -> Attack:
    """The attack behind a `--trigger`: a named one with its own trigger, or any text.

    Args:
        text_or_name: A name from `ATTACKS`, or the text of a trigger. One word makes a BadNet, more
            make an InSent.
        place: Where the trigger goes.

    Raises:
        ConfigError: The trigger is empty.
    """
    if text_or_name in ATTACKS:
        values = {"attack": text_or_name, "place": place}
    else:
        kind = "insent" if len(text_or_name.split()) > 1 else "badnet"
        values = {"attack": kind, "trigger": text_or_name, "place": place}
    return make_attack(load_settings(AttackConfig, values, "The trigger"))
