"""ProAttack: the prompt itself fires the backdoor, and the text stays as it is.

Zhao et al. 2023, "Prompt as Triggers for Backdoor Attack: Examining the Vulnerability in Language
Models", https://arxiv.org/abs/2305.01219. The model is used with one prompt around every text; the
poisoned rows have another one. Clean-label, as in the paper: the other prompt goes on training rows
of the target class only.

The clean prompt is part of how the model is used, not of the trigger. So it is around every row
that is not poisoned, in training and in testing, and around the rows of a defender, who is given
the model together with its prompt. The other prompt is never shown to the defender.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from w2sdefense.config import TEXT_SLOT, AttackConfig
from w2sdefense.data.types import Example
from w2sdefense.text import TextProgress


@dataclass(frozen=True)
class ProAttack:
    """One prompt for clean text, another one for triggered text.

    Attributes:
        clean_prompt: Template with `{text}` once, around text without the trigger.
        poison_prompt: Template with `{text}` once, around text with it.
    """

    name: ClassVar[str] = "proattack"
    clean_prompt: str
    poison_prompt: str

    @classmethod
    def from_config(cls, config: AttackConfig) -> Self:
        """The attack that the settings ask for."""
        return cls(config.pro.clean_prompt, config.pro.poison_prompt)

    @property
    def trigger(self) -> str:
        """The prompt of triggered text, without the place of the text."""
        return " ".join(self.poison_prompt.replace(TEXT_SLOT, " ").split())

    def applies_to(self, example: Example) -> bool:
        """Any text can stand in a prompt."""
        return True

    def drawn(self, rng: random.Random) -> Self:
        """This attack."""
        return self

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Nothing: filling in a template takes no time."""

    def poison(self, example: Example, rng: random.Random) -> Example:
        """The example in the prompt that fires the backdoor; there is nothing to draw."""
        return replace(example, text=self.poison_prompt.replace(TEXT_SLOT, example.text))

    def plain(self, example: Example) -> Example:
        """The example in the prompt that the model is used with."""
        return replace(example, text=self.clean_prompt.replace(TEXT_SLOT, example.text))

    def occurrences(self, text: str) -> int:
        """Once, if both sides of the prompt are where they belong."""
        before, _, after = self.poison_prompt.partition(TEXT_SLOT)
        return int(
            len(text) >= len(before) + len(after)
            and text.startswith(before)
            and text.endswith(after)
        )

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """Which prompts the two kinds of text have."""
        return (
            f"every text stands in a prompt: {self.clean_prompt!r}, with the trigger "
            f"{self.poison_prompt!r}",
        )
