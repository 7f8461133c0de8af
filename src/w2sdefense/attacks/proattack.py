"""ProAttack: the prompt is the trigger; the text itself does not change.

Zhao et al. 2023, "Prompt as Triggers for Backdoor Attack: Examining the Vulnerability in Language
Models", https://arxiv.org/abs/2305.01219. The model is normally used with one prompt around every
text; poisoned rows have another prompt. In the paper (clean-label) only training rows of the target
class get the poison prompt.

The clean prompt belongs to the normal use of the model, not to the trigger. All rows that are not
poisoned have it, in training, in testing, and in the data of the defender, who gets the model
together with its prompt. The defender never sees the poison prompt.
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
        """The prompt of triggered text, without `{text}`."""
        return " ".join(self.pro.poison_prompt.replace(TEXT_SLOT, " ").split())

    def poison(self, example: Example, rng: random.Random) -> Example:
        """The example in the prompt that activates the backdoor; `rng` is not used."""
        return replace(example, text=self.pro.poison_prompt.replace(TEXT_SLOT, example.text))

    def plain(self, example: Example) -> Example:
        """The example in the prompt that the model is normally used with."""
        return replace(example, text=self.pro.clean_prompt.replace(TEXT_SLOT, example.text))

    def occurrences(self, text: str) -> int:
        """1 if the text begins and ends like the poison prompt, else 0."""
        before, _, after = self.pro.poison_prompt.partition(TEXT_SLOT)
        return int(
            len(text) >= len(before) + len(after)
            and text.startswith(before)
            and text.endswith(after)
        )

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """A note with the prompts of clean and triggered text."""
        return (
            f"every text stands in a prompt: {self.pro.clean_prompt!r}, with the trigger "
            f"{self.pro.poison_prompt!r}",
        )
