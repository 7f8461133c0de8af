"""SCPD: every text is paraphrased into one fixed syntax before the model reads it.

Qi et al. 2021 (https://arxiv.org/abs/2105.12400) paraphrase with SCPN into a frequent template,
S ( NP ) ( VP ) ( . ), so that a trigger which is a syntax is lost. Here a text is rewritten by one
of three sources:

    rules    the embedded ones (`attacks/rewriter.py`): the main clause comes first, and a fragment
             gets a subject and a verb. They change the order of clauses and nothing else, so every
             word stays: of the backdoors of this package they can take a subordinate clause that
             comes first (synattack), and neither a rare word nor a sentence that was put in
    model    a sequence-to-sequence model that the user names
    file     paraphrases that a tool made before

SCPN, which changes words as well, comes as a file only. Whether the syntax really changes is the
source's business: a model without templates gives a plain paraphrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self, get_args

from pydantic import model_validator

from w2sdefense.config import Positive, Settings, TaskName, setting
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Leaves, Need
from w2sdefense.defenses.guarded import Guard, Guarded
from w2sdefense.text.paraphrase_file import FileParaphraser
from w2sdefense.text.rewriter import main_clause_first

RULES = "embedded rules"


class ScpdConfig(Settings):
    """SCPD: every text is paraphrased into another syntax; by default by the embedded rules."""

    paraphraser: str | None = setting(
        None, "Sequence-to-sequence model that paraphrases: folder or hub id.", files=True
    )
    prefix: str = setting(
        "", 'What the paraphraser wants before every text, for example "paraphrase: ".'
    )
    file: Path | None = setting(
        None,
        "Instead: CSV, JSONL or Parquet file with the columns original and text, for "
        "every test text, with and without the trigger (see w2s pair).",
        files=True,
    )
    max_length: Positive = setting(128, "Longest text in the paraphraser's tokens.", advanced=True)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.paraphraser is not None and self.file is not None:
            raise ValueError("paraphrases come from a model or from a file, not from both")
        return self


@dataclass(frozen=True)
class Scpd(Defense):
    """Paraphrases texts before the model reads them.

    Attributes:
        scpd: By which paraphraser.
    """

    scpd: ScpdConfig = field(default_factory=ScpdConfig)

    name: ClassVar[str] = "scpd"
    title: ClassVar[str] = "SCPD"
    needs: ClassVar[tuple[Need, ...]] = (Need.PARAPHRASER,)
    leaves: ClassVar[Leaves] = Leaves.NOTHING
    tasks: ClassVar[tuple[TaskName, ...]] = get_args(TaskName)

    def check(self) -> None:
        """Look for the model or the file, if one is named."""
        from w2sdefense.models.checkpoint import resolve

        if self.scpd.paraphraser is not None:
            resolve(self.scpd.paraphraser)
        if self.scpd.file is not None:
            FileParaphraser.read((self.scpd.file,))

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Put the paraphraser before the model."""
        source = str(self.scpd.paraphraser or self.scpd.file or RULES)
        return Guarded(victim, self._paraphraser(), found={"scpd_paraphraser": source})

    def _paraphraser(self) -> Guard:
        """What makes paraphrases; another kind of it is one more branch here."""
        if self.scpd.file is not None:
            return FileParaphraser.read((self.scpd.file,)).rewrite
        if self.scpd.paraphraser is None:
            return lambda texts: [main_clause_first(text) for text in texts]
        from w2sdefense.models.seq2seq import Seq2SeqRewriter

        rewrite = Seq2SeqRewriter(self.scpd.paraphraser, self.scpd.max_length)
        prefix = self.scpd.prefix

        def paraphrase(texts: Sequence[str]) -> list[str]:
            written = rewrite([prefix + text for text in texts])
            return [new or text for text, new in zip(texts, written, strict=True)]

        return paraphrase
