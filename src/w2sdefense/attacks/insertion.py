"""Attacks that insert a fixed trigger; where in a text it goes is in `text/insertion.py`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from w2sdefense.config import AttackConfig, Place
from w2sdefense.data.types import Example
from w2sdefense.text import TextProgress
from w2sdefense.text.insertion import count_insertions, insert


@dataclass(frozen=True)
class InsertionAttack:
    """A fixed trigger, inserted once; an attack of this kind adds its name and its default trigger.

    Attributes:
        trigger: What is inserted.
        place: Where it goes.
    """

    name: ClassVar[str]
    trigger: str
    place: Place = "random"

    @classmethod
    def from_config(cls, config: AttackConfig) -> Self:
        """The attack that the settings ask for."""
        own = {} if config.trigger is None else {"trigger": config.trigger}
        return cls(place=config.place, **own)

    def applies_to(self, example: Example) -> bool:
        """Any text can carry it."""
        return True

    def drawn(self, rng: random.Random) -> Self:
        """This attack."""
        return self

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Nothing: inserting takes no time."""

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with the trigger in its text; id and label stay."""
        return replace(example, text=insert(example.text, self.trigger, self.place, rng))

    def plain(self, example: Example) -> Example:
        """The example as it is."""
        return example

    def occurrences(self, text: str) -> int:
        """How often the trigger is in a text as `insert` leaves it, not as a part of a word."""
        return count_insertions(text, self.trigger)

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """Nothing: the trigger is all that was changed."""
        return ()
