"""The contract of an attack: one example in, one triggered example out.

How many rows carry the trigger, and which ones, is the business of `poisoning.py`, which is also
who calls all of this in the right order.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from w2sdefense.config import AttackConfig
from w2sdefense.data.types import Example
from w2sdefense.text import TextProgress


class Attack(Protocol):
    """A way to put a trigger into a text."""

    @property
    def name(self) -> str:
        """Name of the attack, as in `--attack`."""

    @property
    def trigger(self) -> str:
        """What fires the backdoor, as it is shown in tables."""

    def applies_to(self, example: Example) -> bool:
        """Whether this example can carry the trigger; others are passed over."""

    def drawn(self, rng: random.Random) -> Attack:
        """Which attack triggers one text: this one, or one of several that it is made of."""

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Do now, all at once, what `poison` would do slowly one by one."""

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example whose text carries the trigger; id and label stay.

        Args:
            example: The clean example as the dataset has it, which is left as it is.
            rng: The only source of chance: equal state, equal result.
        """

    def plain(self, example: Example) -> Example:
        """The example as it is used without the trigger: the same one for most attacks."""

    def occurrences(self, text: str) -> int:
        """How often a text shows the trigger, as far as its surface tells."""

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """What a reader of the numbers must know about the triggered texts.

        Args:
            clean: Texts without the trigger, as `plain` gives them.
            triggered: The same texts with it.
        """


def count_lost(texts: Iterable[tuple[Attack, str, int | None]]) -> int:
    """How many texts have no trigger left because they were cut.

    Args:
        texts: The attack that put its trigger into a text, the text, and the character that it is
            cut at; None if it is not.
    """
    return sum(
        attack.occurrences(text) > 0 and not attack.occurrences(text[:cut_at])
        for attack, text, cut_at in texts
        if cut_at is not None
    )


class NamedAttack(Attack, Protocol):
    """An attack that `--attack` can name."""

    @classmethod
    def from_config(cls, config: AttackConfig) -> Self:
        """The attack that the settings ask for; settings that are None get the paper's values."""
