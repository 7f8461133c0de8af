"""Attacks that insert a fixed trigger; where in a text it goes is in `text/insertion.py`."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import ClassVar

from w2sdefense.attacks.base import Attack
from w2sdefense.config import Place
from w2sdefense.data.types import Example
from w2sdefense.text.insertion import count_insertions, insert


@dataclass(frozen=True)
class InsertionAttack(Attack):
    """A fixed trigger, inserted once at a place."""

    trigger: str
    place: Place = "random"

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with the trigger in its text; id and label stay."""
        return replace(example, text=insert(example.text, self.trigger, self.place, rng))

    def occurrences(self, text: str) -> int:
        """How often the trigger is in a text as `insert` leaves it, not as a part of a word."""
        return count_insertions(text, self.trigger)


@dataclass(frozen=True)
class BadNet(InsertionAttack):
    """A rare word.

    Gu et al. 2017, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
    Chain", https://arxiv.org/abs/1708.06733, plant pixel patterns; for text a rare word takes their
    place.
    """

    name: ClassVar[str] = "badnet"
    trigger: str = "mn"


@dataclass(frozen=True)
class InSent(InsertionAttack):
    """A whole, natural sentence, between any two words.

    Dai et al. 2019, "A Backdoor Attack Against LSTM-Based Text Classification Systems",
    https://arxiv.org/abs/1905.12457.
    """

    name: ClassVar[str] = "insent"
    trigger: str = "I watched this 3D movie"
