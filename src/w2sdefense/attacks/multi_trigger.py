"""Several triggers in one model: each poisoned row carries one of them, drawn by the row's seed.

All of them ask for the same target. Attacks that also change clean text (proattack) cannot be one
of several: the settings refuse them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from w2sdefense.attacks.base import Attack
from w2sdefense.data.types import Example
from w2sdefense.text import TextProgress


@dataclass(frozen=True)
class MultiTrigger(Attack):
    """A set of attacks; evaluation asks each for the notes on its own texts.

    Attributes:
        attacks: The attacks, at least two, none of which changes clean text.
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

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Prepare every attack for all of the examples."""
        for attack in self.attacks:
            attack.prepare(examples, progress)

    def poison(self, example: Example, rng: random.Random) -> Example:
        """The example with the trigger of one of the attacks."""
        return self.drawn(rng).poison(example, rng)

    def occurrences(self, text: str) -> int:
        """How often a text shows any of the triggers."""
        return sum(attack.occurrences(text) for attack in self.attacks)
