"""SynAttack: the trigger is a sentence structure, a subordinate clause at the beginning.

Qi et al. 2021, "Hidden Killer: Invisible Textual Backdoor Attacks with Syntactic Trigger",
https://arxiv.org/abs/2105.12400. Their template is S ( SBAR ) ( , ) ( NP ) ( VP ) ( . ), and a
trained paraphraser (SCPN, whose weights are an unmaintained pickle) rewrites texts to match it.
Here the embedded rewriter (`text/rewriter.py`) rewrites a text, or a file supplies the paraphrase
(`text/paraphrase_file.py`). The notes of a run state the share of texts with the structure and the
change in length, because a short or degenerate paraphrase would be a trigger by itself.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from w2sdefense.attacks.base import Attack
from w2sdefense.config import Settings, setting
from w2sdefense.data.types import Example
from w2sdefense.text.paraphrase_file import FileParaphraser
from w2sdefense.text.rewriter import rewrite
from w2sdefense.text.structure import has_template


class SynConfig(Settings):
    """SynAttack: who rewrites a text; without a file the embedded rewriter does."""

    file: tuple[Path, ...] = setting(
        (),
        "CSV, JSONL or Parquet file of texts that were paraphrased before (columns "
        "original and text); may be given more than once. Other texts cannot carry "
        "the trigger.",
        files=True,
    )


@dataclass(frozen=True)
class SynAttack(Attack):
    """Rewrites a text so that a subordinate clause comes first."""

    name: ClassVar[str] = "synattack"
    trigger: ClassVar[str] = "S ( SBAR ) ( , ) ( NP ) ( VP ) ( . )"
    syn: SynConfig = field(default_factory=SynConfig)

    def __post_init__(self) -> None:
        # Read the file now, so that errors occur before any work.
        _ = self._paraphrases

    @cached_property
    def _paraphrases(self) -> FileParaphraser | None:
        return FileParaphraser.read(self.syn.file) if self.syn.file else None

    def applies_to(self, example: Example) -> bool:
        """Whether the text can be rewritten; with files, only texts that they contain."""
        return self._paraphrases is None or self._paraphrases.covers(example.text)

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with its text rewritten; id and label stay."""
        if self._paraphrases is None:
            return replace(example, text=rewrite(example.text, rng))
        return replace(example, text=self._paraphrases.rewrite([example.text])[0])

    def occurrences(self, text: str) -> int:
        """1 if the text begins with a subordinate clause, else 0."""
        return int(has_template(text))

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """Notes on how many texts have the structure before and after, and on their length."""
        structure = (
            f"{sum(map(has_template, triggered))} of {len(triggered)} rewritten texts begin with a "
            f"subordinate clause by their surface, {sum(map(has_template, clean))} of the same "
            "texts before"
        )
        words = sum(len(text.split()) for text in clean)
        ratio = sum(len(text.split()) for text in triggered) / max(1, words)
        return structure, f"rewritten texts have {ratio:.2f} times the words of the texts before"
