"""The contract of an attack: one example in, one triggered example out.

How many rows carry the trigger, and which ones, is the business of `poisoning.py`. An attack is a
file of its own and a line in `catalog.py`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from w2sdefense.data.types import Example


class Attack(ABC):
    """A way to put a trigger into a text: a frozen dataclass whose fields are its settings.

    A field has the name of a setting of `TriggerSettings`, or is a settings class of the attack's
    own file, which is a section there.
    """

    name: ClassVar[str]  # as in `--attack`
    changes_clean: ClassVar[bool] = False  # whether text without the trigger is, too (a prompt)

    @property
    @abstractmethod
    def trigger(self) -> str:
        """What fires the backdoor, as it is shown in tables."""

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The attack that the settings ask for; what they leave open has the paper's value."""
        values = {field.name: getattr(config, field.name) for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in values.items() if value is not None})

    @abstractmethod
    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example whose text carries the trigger; all chance is from `rng`."""

    @abstractmethod
    def occurrences(self, text: str) -> int:
        """How often a text shows the trigger, as far as its surface tells."""

    def applies_to(self, example: Example) -> bool:
        """Whether this example can carry the trigger; others are passed over."""
        return True

    def drawn(self, rng: random.Random) -> Attack:
        """Which attack triggers one text: this one, or one of several that it is made of."""
        return self

    def plain(self, example: Example) -> Example:
        """The example as it is used without the trigger."""
        return example

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """What a reader of the numbers must know about texts without and with the trigger."""
        return ()


def count_lost(texts: Iterable[tuple[Attack, str, int | None]]) -> int:
    """How many texts lost their trigger by a cut: (attack, text, character of the cut)."""
    return sum(
        attack.occurrences(text) > 0 and not attack.occurrences(text[:cut_at])
        for attack, text, cut_at in texts
        if cut_at is not None
    )


@dataclass(frozen=True)
class MultiTrigger(Attack):
    """Several triggers in one model: each poisoned row carries one, drawn by the row's seed.

    All ask for the same target, and none of the attacks changes clean text.
    """

    name: ClassVar[str] = "several"
    attacks: tuple[Attack, ...]

    @property
    def trigger(self) -> str:
        """All triggers, one behind the other."""
        return " | ".join(attack.trigger for attack in self.attacks)

    def applies_to(self, example: Example) -> bool:
        """Whether every attack can trigger the example: which one does is drawn later."""
        return all(attack.applies_to(example) for attack in self.attacks)

    def drawn(self, rng: random.Random) -> Attack:
        """One of the attacks, each as likely as the others."""
        return self.attacks[rng.randrange(len(self.attacks))]

    def poison(self, example: Example, rng: random.Random) -> Example:
        """The example with the trigger of one of the attacks."""
        return self.drawn(rng).poison(example, rng)

    def occurrences(self, text: str) -> int:
        """How often a text shows any of the triggers."""
        return sum(attack.occurrences(text) for attack in self.attacks)
