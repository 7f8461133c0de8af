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
from typing import ClassVar, Self

from w2sdefense.config import DefendRun, ScpdConfig
from w2sdefense.defenses.base import Defended, DefenseKit, Leaves, Need
from w2sdefense.defenses.guarded import Guard, Guarded
from w2sdefense.models.locate import resolve_model
from w2sdefense.models.seq2seq import Seq2SeqRewriter
from w2sdefense.text.paraphrase_file import FileParaphraser
from w2sdefense.text.rewriter import main_clause_first

RULES = "embedded rules"


@dataclass(frozen=True)
class Scpd:
    """Paraphrases texts before the model reads them.

    Attributes:
        config: By which paraphraser.
    """

    config: ScpdConfig = field(default_factory=ScpdConfig)

    name: ClassVar[str] = "scpd"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PARAPHRASER})
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run.

        Raises:
            W2SError: The model or the file is not there.
        """
        config = run.scpd
        if config.paraphraser is not None:
            resolve_model(config.paraphraser)
        if config.file is not None:
            FileParaphraser.read((config.file,))
        return cls(config)

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Put the paraphraser before the model."""
        source = str(self.config.paraphraser or self.config.file or RULES)
        return Guarded(victim, self._paraphraser(), found={"scpd_paraphraser": source})

    def _paraphraser(self) -> Guard:
        """What makes paraphrases; another kind of it is one more branch here."""
        if self.config.file is not None:
            return FileParaphraser.read((self.config.file,)).rewrite
        if self.config.paraphraser is None:
            return lambda texts: [main_clause_first(text) for text in texts]
        rewrite = Seq2SeqRewriter(self.config.paraphraser, self.config.max_length)
        prefix = self.config.prefix

        def paraphrase(texts: Sequence[str]) -> list[str]:
            written = rewrite([prefix + text for text in texts])
            return [new or text for text, new in zip(texts, written, strict=True)]

        return paraphrase
