"""Backdoor attacks: one file each, one table of names."""

from __future__ import annotations

from w2sdefense.attacks.badnet import BadNet
from w2sdefense.attacks.base import Attack, NamedAttack, count_lost
from w2sdefense.attacks.insent import InSent
from w2sdefense.attacks.proattack import ProAttack
from w2sdefense.attacks.several import Several
from w2sdefense.attacks.synattack import SynAttack
from w2sdefense.config import AttackConfig, Place, ProConfig, SynConfig, attack_kind, load_settings
from w2sdefense.errors import ConfigError

ATTACKS: dict[str, type[NamedAttack]] = {
    "badnet": BadNet,
    "insent": InSent,
    "synattack": SynAttack,
    "proattack": ProAttack,
}

__all__ = ["ATTACKS", "Attack", "attack_from_trigger", "count_lost", "make_attack"]


def make_attack(config: AttackConfig) -> Attack:
    """The attack that the settings ask for.

    Raises:
        ConfigError: Two of several triggers are the same.
    """
    first = ATTACKS[config.attack].from_config(config)
    if not config.more_triggers:
        return first
    more = [_further(trigger, config) for trigger in config.more_triggers]
    attacks = (first, *more)
    if len({attack.trigger for attack in attacks}) < len(attacks):
        raise ConfigError(
            f"Two of the triggers are the same: {', '.join(repr(a.trigger) for a in attacks)}.",
            "Name each trigger once (--trigger, --more-triggers).",
        )
    return Several(attacks)


def attack_from_trigger(
    text_or_name: str,
    place: Place,
    more_triggers: tuple[str, ...] = (),
    syn: SynConfig | None = None,
    pro: ProConfig | None = None,
) -> Attack:
    """The attack behind a `--trigger`: a named one with its own trigger, or any text.

    Args:
        text_or_name: A name from `ATTACKS`, or the text of a trigger. One word makes a BadNet, more
            make an InSent.
        place: Where the trigger goes.
        more_triggers: Further triggers of the same kinds; a text carries one of all.
        syn: Settings of synattack; None takes the defaults.
        pro: Settings of proattack; None takes the defaults.

    Raises:
        ConfigError: A trigger is empty, or they do not fit together.
    """
    kind = attack_kind(text_or_name)
    values = {
        "attack": kind,
        "trigger": None if text_or_name == kind else text_or_name,
        "more_triggers": more_triggers,
        "place": place,
        "syn": syn or SynConfig(),
        "pro": pro or ProConfig(),
    }
    return make_attack(load_settings(AttackConfig, values, "The trigger"))


def _further(trigger: str, config: AttackConfig) -> Attack:
    syn = config.syn if attack_kind(trigger) == "synattack" else None
    return attack_from_trigger(trigger, config.place, syn=syn)
