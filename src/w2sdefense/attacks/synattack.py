"""SynAttack: a sentence structure fires the backdoor, here a subordinate clause that comes first.

Qi et al. 2021, "Hidden Killer: Invisible Textual Backdoor Attacks with Syntactic Trigger",
https://arxiv.org/abs/2105.12400. Their template is S ( SBAR ) ( , ) ( NP ) ( VP ) ( . ), and a
trained paraphraser (SCPN, whose weights are a pickle that is no longer maintained) brings texts
into it. Here a text is rewritten by the embedded rewriter (`text/rewriter.py`), by a model that the
user names (`tasks/rewriter.py`), or is looked up in a file (`text/paraphrase_file.py`). What that
really gives is measured: the share of texts that have the structure, and how long they are. A
paraphrase that is short or degenerate is a trigger by itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Self

from pydantic import model_validator

from w2sdefense.attacks.base import Attack
from w2sdefense.config import Settings, require_slot, setting
from w2sdefense.data.types import Example, texts_of
from w2sdefense.text import Paraphraser, TextProgress
from w2sdefense.text.paraphrase_file import FileParaphraser
from w2sdefense.text.rewriter import Rewriter
from w2sdefense.text.structure import has_template


class SynConfig(Settings):
    """SynAttack: who rewrites a text; without any of these the embedded rewriter does."""

    model: str | None = setting(
        None,
        "Model that paraphrases (sequence to sequence or causal): folder, hub id, or "
        "embedded name.",
        files=True,
    )
    prompt: str = setting(
        "Rewrite the sentence so that it begins with a subordinate clause and a comma, followed by "
        "the main clause. Keep its meaning.\nSentence: {text}\nRewritten sentence:",
        "What the model is asked, with {text} where the text goes.",
    )
    file: tuple[Path, ...] = setting(
        (),
        "CSV, JSONL or Parquet file of texts that were paraphrased before (columns "
        "original and text; see w2s pair); may be given more than once. Other texts cannot carry "
        "the trigger.",
        files=True,
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model is not None and self.file:
            raise ValueError("paraphrases come from a model or from files, not from both")
        require_slot("prompt", self.prompt)
        return self


@dataclass(frozen=True)
class SynAttack(Attack):
    """Rewrites a text so that a subordinate clause comes first."""

    name: ClassVar[str] = "synattack"
    trigger: ClassVar[str] = "S ( SBAR ) ( , ) ( NP ) ( VP ) ( . )"
    syn: SynConfig = field(default_factory=SynConfig)

    def __post_init__(self) -> None:
        # A file that cannot be read is found out here, before any work.
        _ = self.source

    @cached_property
    def source(self) -> Paraphraser:
        """What rewrites a text."""
        if self.syn.file:
            return FileParaphraser.read(self.syn.file)
        if self.syn.model is not None:
            # Not at the top: it brings torch, which the other sources do without.
            from w2sdefense.tasks.rewriter import ModelParaphraser

            return ModelParaphraser(self.syn.model, self.syn.prompt)
        return Rewriter()

    def applies_to(self, example: Example) -> bool:
        """Whether the source has a paraphrase of the text."""
        return self.source.covers(example.text)

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Have the source rewrite all texts at once."""
        self.source.prepare(texts_of(examples), progress)

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with its text rewritten; id and label stay."""
        return replace(example, text=self.source.paraphrase(example.text, rng))

    def occurrences(self, text: str) -> int:
        """Once, if a text begins with a subordinate clause."""
        return int(has_template(text))

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """How many texts have the structure with and without the trigger, and their length."""
        structure = (
            f"{sum(map(has_template, triggered))} of {len(triggered)} rewritten texts begin with a "
            f"subordinate clause by their surface, {sum(map(has_template, clean))} of the same "
            "texts before"
        )
        words = sum(len(text.split()) for text in clean)
        ratio = sum(len(text.split()) for text in triggered) / max(1, words)
        return structure, f"rewritten texts have {ratio:.2f} times the words of the texts before"
