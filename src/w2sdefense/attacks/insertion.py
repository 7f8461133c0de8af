"""Attacks that insert a fixed trigger; `text/insertion.py` chooses the position."""

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
    """A fixed trigger that is inserted once."""

    trigger: str
    place: Place = "random"

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with the trigger in its text; id and label stay."""
        return replace(example, text=insert(example.text, self.trigger, self.place, rng))

    def occurrences(self, text: str) -> int:
        """How often the trigger occurs in a text, not counting parts of words."""
        return count_insertions(text, self.trigger)


@dataclass(frozen=True)
class BadNet(InsertionAttack):
    """A rare word.

    Gu et al. 2017, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply
    Chain", https://arxiv.org/abs/1708.06733, use pixel patterns; for text, a rare word replaces
    them.
    """

    name: ClassVar[str] = "badnet"
    trigger: str = "mn"


@dataclass(frozen=True)
class InSent(InsertionAttack):
    """A whole, natural sentence; by default between two random words.

    Dai et al. 2019, "A Backdoor Attack Against LSTM-Based Text Classification Systems",
    https://arxiv.org/abs/1905.12457.
    """

    name: ClassVar[str] = "insent"
    trigger: str = "I watched this 3D movie"
