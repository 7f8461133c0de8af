"""The interface of an attack, which maps an example to a triggered example.

`poisoning.py` decides which rows carry the trigger. An attack is one file and a line in
`catalog.py`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from w2sdefense.data.types import Example


class Attack(ABC):
    """Base class of attacks: frozen dataclasses whose fields are their settings.

    A field has the name of a setting of `TriggerSettings`. If its class is a settings class of the
    attack's own file, it is a section there.
    """

    name: ClassVar[str]  # as in `--attack`
    changes_clean: ClassVar[bool] = False  # whether text without the trigger changes, too (prompt)

    @property
    @abstractmethod
    def trigger(self) -> str:
        """What activates the backdoor, as shown in tables."""

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """Create the attack from settings; unset values get the defaults of the attack."""
        values = {field.name: getattr(config, field.name) for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in values.items() if value is not None})

    @abstractmethod
    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example whose text carries the trigger; `rng` makes all random choices."""

    @abstractmethod
    def occurrences(self, text: str) -> int:
        """How often the trigger occurs in a text, judged by its surface."""

    def applies_to(self, example: Example) -> bool:
        """Whether this example can carry the trigger; others are skipped."""
        return True

    def drawn(self, rng: random.Random) -> Attack:
        """The attack that triggers one text: this one, or one of its parts."""
        return self

    def plain(self, example: Example) -> Example:
        """The example as it is used without the trigger."""
        return example

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """Notes for readers of the numbers about texts without and with the trigger."""
        return ()


def count_lost(texts: Iterable[tuple[Attack, str, int | None]]) -> int:
    """Count the texts whose trigger was cut off; takes (attack, text, character of the cut)."""
    return sum(
        attack.occurrences(text) > 0 and not attack.occurrences(text[:cut_at])
        for attack, text, cut_at in texts
        if cut_at is not None
    )


@dataclass(frozen=True)
class MultiTrigger(Attack):
    """Several triggers in one model: each poisoned row carries one, drawn with the row's seed.

    All triggers have the same target, and none of the attacks changes clean text.
    """

    name: ClassVar[str] = "several"
    attacks: tuple[Attack, ...]

    @property
    def trigger(self) -> str:
        """All triggers, joined by bars."""
        return " | ".join(attack.trigger for attack in self.attacks)

    def applies_to(self, example: Example) -> bool:
        """Whether every attack can trigger the example; the attack is drawn later."""
        return all(attack.applies_to(example) for attack in self.attacks)

    def drawn(self, rng: random.Random) -> Attack:
        """One of the attacks, drawn uniformly."""
        return self.attacks[rng.randrange(len(self.attacks))]

    def poison(self, example: Example, rng: random.Random) -> Example:
        """The example with the trigger of one of the attacks."""
        return self.drawn(rng).poison(example, rng)

    def occurrences(self, text: str) -> int:
        """How often any of the triggers occurs in a text."""
        return sum(attack.occurrences(text) for attack in self.attacks)
