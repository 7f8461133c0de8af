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
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

from pydantic import model_validator

from w2sdefense.attacks.base import Attack
from w2sdefense.config import TEXT_SLOT, Settings, require_slot, setting
from w2sdefense.data.types import Example


class ProConfig(Settings):
    """ProAttack: the two prompts, with {text} where the text goes."""

    clean_prompt: str = setting(
        "This sentence has a <mask> sentiment: {text}",
        "Prompt around text without the trigger, as the model is normally used.",
    )
    poison_prompt: str = setting(
        "The sentiment of this sentence is <mask>: {text}", "Prompt that fires the backdoor."
    )

    @model_validator(mode="after")
    def _two_templates(self) -> Self:
        require_slot("clean_prompt", self.clean_prompt)
        require_slot("poison_prompt", self.poison_prompt)
        if self.clean_prompt == self.poison_prompt:
            raise ValueError("the two prompts are the same")
        return self


@dataclass(frozen=True)
class ProAttack(Attack):
    """One prompt for clean text, another one for triggered text."""

    name: ClassVar[str] = "proattack"
    changes_clean: ClassVar[bool] = True
    pro: ProConfig = field(default_factory=ProConfig)

    @property
    def trigger(self) -> str:
        """The prompt of triggered text, without the place of the text."""
        return " ".join(self.pro.poison_prompt.replace(TEXT_SLOT, " ").split())

    def poison(self, example: Example, rng: random.Random) -> Example:
        """The example in the prompt that fires the backdoor; there is nothing to draw."""
        return replace(example, text=self.pro.poison_prompt.replace(TEXT_SLOT, example.text))

    def plain(self, example: Example) -> Example:
        """The example in the prompt that the model is used with."""
        return replace(example, text=self.pro.clean_prompt.replace(TEXT_SLOT, example.text))

    def occurrences(self, text: str) -> int:
        """Once, if both sides of the prompt are where they belong."""
        before, _, after = self.pro.poison_prompt.partition(TEXT_SLOT)
        return int(
            len(text) >= len(before) + len(after)
            and text.startswith(before)
            and text.endswith(after)
        )

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """Which prompts the two kinds of text have."""
        return (
            f"every text stands in a prompt: {self.pro.clean_prompt!r}, with the trigger "
            f"{self.pro.poison_prompt!r}",
        )
