"""The contract of an attack: one example in, one triggered example out.

How many rows carry the trigger, and which ones, is the business of `poisoning.py`.
"""

from __future__ import annotations

import random
from typing import Protocol, Self

from w2sdefense.config import AttackConfig
from w2sdefense.data.types import Example


class Attack(Protocol):
    """A way to put a trigger into a text."""

    @property
    def name(self) -> str:
        """Name of the attack, as in `--attack`."""

    @property
    def trigger(self) -> str:
        """What fires the backdoor, as it is shown in tables."""

    @classmethod
    def from_config(cls, config: AttackConfig) -> Self:
        """The attack that the settings ask for; settings that are None get the paper's values."""

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example whose text carries the trigger; id and label stay.

        Args:
            example: The clean example, which is left as it is.
            rng: The only source of chance: equal state, equal result.
        """
