"""The contract of an attack: one example in, one triggered example out.

How many rows carry the trigger, and which ones, is the business of `poisoning.py`, which is also
who calls all of this in the right order. An attack is a file of its own and a line in `catalog.py`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self, get_type_hints

from w2sdefense.config import Settings
from w2sdefense.data.types import Example
from w2sdefense.text import TextProgress


class Attack(ABC):
    """A way to put a trigger into a text: a frozen dataclass whose fields are its settings.

    A field has the name of a setting of `TriggerSettings`. A settings class that stands in the file
    of the attack is a section of its own there.

    Attributes:
        name: Name of the attack, as in `--attack`.
        changes_clean: Whether text without the trigger is changed as well (a prompt).
    """

    name: ClassVar[str]
    changes_clean: ClassVar[bool] = False

    @property
    @abstractmethod
    def trigger(self) -> str:
        """What fires the backdoor, as it is shown in tables."""

    @classmethod
    def own_sections(cls) -> dict[str, type[Settings]]:
        """The fields that are settings of its own."""
        hints = get_type_hints(cls)
        return {
            field.name: hints[field.name]
            for field in fields(cls)  # type: ignore[arg-type]
            if hints[field.name].__module__ == cls.__module__
        }

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The attack that the settings ask for; what they leave open has the paper's value."""
        values = {field.name: getattr(config, field.name) for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in values.items() if value is not None})

    @abstractmethod
    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example whose text carries the trigger; id and label stay.

        Args:
            example: The clean example as the dataset has it, which is left as it is.
            rng: The only source of chance: equal state, equal result.
        """

    @abstractmethod
    def occurrences(self, text: str) -> int:
        """How often a text shows the trigger, as far as its surface tells."""

    def applies_to(self, example: Example) -> bool:
        """Whether this example can carry the trigger; others are passed over."""
        return True

    def drawn(self, rng: random.Random) -> Attack:
        """Which attack triggers one text: this one, or one of several that it is made of."""
        return self

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Do now, all at once, what `poison` would do slowly one by one."""
        return None

    def plain(self, example: Example) -> Example:
        """The example as it is used without the trigger."""
        return example

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """What a reader of the numbers must know about the triggered texts.

        Args:
            clean: Texts without the trigger, as `plain` gives them.
            triggered: The same texts with it.
        """
        return ()


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
