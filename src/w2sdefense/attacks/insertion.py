"""Attacks that insert a fixed trigger; where in a text it goes is in `text/insertion.py`."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from w2sdefense.attacks.base import Attack
from w2sdefense.config import Place
from w2sdefense.data.types import Example
from w2sdefense.text.insertion import count_insertions, insert


@dataclass(frozen=True)
class InsertionAttack(Attack):
    """A fixed trigger, inserted once; an attack of this kind adds its name and its default trigger.

    Attributes:
        trigger: What is inserted.
        place: Where it goes.
    """

    trigger: str
    place: Place = "random"

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with the trigger in its text; id and label stay."""
        return replace(example, text=insert(example.text, self.trigger, self.place, rng))

    def occurrences(self, text: str) -> int:
        """How often the trigger is in a text as `insert` leaves it, not as a part of a word."""
        return count_insertions(text, self.trigger)
