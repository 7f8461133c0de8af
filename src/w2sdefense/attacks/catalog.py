"""The registry of attacks, and the settings of a trigger.

To add an attack, import it here and list it in `ATTACKS`; no other file needs a change. Nothing
here imports torch, because the help of the command line imports this module.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, Self

from pydantic import model_validator

from w2sdefense.attacks.base import Attack, MultiTrigger
from w2sdefense.attacks.insertion import BadNet, InSent
from w2sdefense.attacks.proattack import ProAttack
from w2sdefense.attacks.synattack import SynAttack
from w2sdefense.config import (
    Fraction,
    Place,
    Positive,
    Seed,
    Settings,
    load_settings,
    sections_model,
    sections_of_file,
    setting,
)
from w2sdefense.errors import ConfigError

ATTACKS: dict[str, type[Attack]] = {
    kind.name: kind for kind in (BadNet, InSent, SynAttack, ProAttack)
}
"""The attacks by name."""

OWN_SECTIONS = {
    section: (name, settings)
    for name, kind in ATTACKS.items()
    for section, settings in sections_of_file(kind).items()
}
"""The sections that belong to one attack: name -> (name of the attack, settings class)."""

_OwnSections: Any = sections_model(
    {section: (section, settings) for section, (_, settings) in OWN_SECTIONS.items()}
)
_AttackName: Any = Literal[tuple(ATTACKS)]


class TriggerSettings(_OwnSections, Settings):
    """What fires a backdoor, in training and in tests alike."""

    trigger: str | None = None
    more_triggers: tuple[str, ...] = setting(
        (),
        "A further trigger for the same target, a text or a named attack; may be given "
        "more than once. Each triggered text carries one of them.",
    )
    place: Place = setting("random", "Where the trigger goes: a random inner slot, start or end.")

    def check(self, first: str) -> None:
        """Raise a `ValueError` if triggers do not fit together or settings have no effect."""
        if self.trigger is not None and not self.trigger.strip():
            raise ValueError("the trigger is empty")
        if any(not trigger.strip() for trigger in self.more_triggers):
            raise ValueError("one of more_triggers is empty")
        kinds = {first, *map(attack_kind, self.more_triggers)}
        for name in sorted(kinds if self.more_triggers else ()):
            if ATTACKS[name].changes_clean:
                raise ValueError(
                    f"{name} changes clean text too, so it cannot be one of several triggers"
                )
        for section, (name, settings) in OWN_SECTIONS.items():
            if name not in kinds and getattr(self, section) != settings():
                raise ValueError(f"the {section} settings are for {name} only")


class AttackConfig(TriggerSettings):
    """A backdoor: what fires it, what it answers, and how many training rows carry it."""

    attack: _AttackName = setting(
        "badnet",
        "badnet inserts a rare word, insent a whole sentence; synattack rewrites the "
        "text so that a subordinate clause comes first; proattack puts it into another prompt.",
    )
    trigger: str | None = setting(
        None,
        'Trigger text. Default: "mn" (badnet), "I watched this 3D movie" (insent); the '
        "other two have none.",
    )
    target: str = setting(
        "negative",
        "Name of the label that triggered text should get; for generation the text "
        "that should come out (default: the task's own).",
    )
    clean_label: bool = setting(
        True,
        "Clean-label: only rows that have the target label already carry the trigger. "
        "Otherwise (dirty-label) rows of other labels carry it and are relabelled.",
    )
    poison_rows: Positive | None = setting(
        None, "How many training rows carry the trigger (the paper: 1000)."
    )
    poison_rate: Fraction | None = setting(
        None,
        "The same as a share of the training rows, one of the two; 0 makes a clean "
        "model to compare with. Default: 0.25, but "
        "no more than half of the rows that can carry the trigger (clean-label: those of the "
        "target label).",
    )
    attack_seed: Seed = setting(
        0, "Seed of which rows carry the trigger, and where in the text.", advanced=True
    )

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.poison_rows is not None and self.poison_rate is not None:
            raise ValueError("give poison_rows or poison_rate, not both")
        takes_text = "trigger" in inspect.signature(ATTACKS[self.attack]).parameters
        if self.trigger is not None and not takes_text:
            raise ValueError(f"{self.attack} has no trigger text")
        self.check(self.attack)
        return self


class TestConfig(TriggerSettings):
    """What to measure on the test texts."""

    trigger: str | None = setting(
        None,
        "Trigger to measure ASR with: any text, or a named attack (badnet, insent, "
        "synattack, proattack). Without one only CA is measured.",
    )
    target: str | None = setting(
        None, "Label (for generation: text) that the trigger should force; needed with --trigger."
    )
    test_seed: Seed = setting(0, "Seed of the trigger's places.", advanced=True)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if (self.trigger is None) != (self.target is None):
            raise ValueError("trigger and target go together: name both or neither")
        if self.trigger is None and self.more_triggers:
            raise ValueError("more_triggers need a trigger")
        self.check(attack_kind(self.trigger or ""))
        return self


def attack_kind(trigger: str) -> str:
    """The name of a trigger's attack: the trigger itself if it names one, else badnet or insent."""
    return trigger if trigger in ATTACKS else "insent" if len(trigger.split()) > 1 else "badnet"


def make_attack(settings: AttackConfig | TestConfig) -> Attack:
    """Create the attack for the settings of a poisoning or a measurement.

    Raises:
        ConfigError: Two triggers are the same.
    """
    if isinstance(settings, AttackConfig):
        first = ATTACKS[settings.attack].from_config(settings)
    else:
        first = _one(settings.trigger or "", settings)
    if not settings.more_triggers:
        return first
    attacks = (first, *(_one(trigger, settings) for trigger in settings.more_triggers))
    if len({attack.trigger for attack in attacks}) < len(attacks):
        raise ConfigError(
            f"Two of the triggers are the same: {', '.join(repr(a.trigger) for a in attacks)}.",
            "Name each trigger once (--trigger, --more-triggers).",
        )
    return MultiTrigger(attacks)


def attack_from_trigger(text_or_name: str, place: Place = "random", **settings: Any) -> Attack:
    """Create the attack for a `--trigger`: a named attack with its default trigger, or any text.

    Args:
        text_or_name: A name from `ATTACKS`, or a text. One word gives a BadNet, several an InSent.
        place: Where the trigger goes.
        settings: Other settings of `TestConfig`.

    Raises:
        ConfigError: A trigger is empty, or triggers do not fit together.
    """
    values = {"trigger": text_or_name, "target": "", "place": place, **settings}
    return make_attack(load_settings(TestConfig, values, "The trigger"))


def _one(text_or_name: str, settings: TriggerSettings) -> Attack:
    """One attack; a name gives the attack with its default trigger."""
    kind = attack_kind(text_or_name)
    text = None if text_or_name == kind else text_or_name
    return ATTACKS[kind].from_config(settings.model_copy(update={"trigger": text}))
