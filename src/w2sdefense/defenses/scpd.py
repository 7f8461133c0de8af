"""SCPD: every text is paraphrased into another syntax before the model reads it.

Qi et al. 2021 (https://arxiv.org/abs/2105.12400) paraphrase with SCPN into one fixed template, so
that a trigger which is a syntax is lost. The paraphraser is a sequence-to-sequence model that the
user names, or a file with paraphrases that a tool made before. Whether the syntax really changes is
the paraphraser's business: one without templates gives a plain paraphrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from w2sdefense.config import ScpdConfig
from w2sdefense.defenses.base import Defended, DefenseKit, Leaves, Need
from w2sdefense.defenses.guarded import Guard, Guarded
from w2sdefense.defenses.rewrites import FileRewriter
from w2sdefense.errors import ConfigError
from w2sdefense.models.load import resolve_model
from w2sdefense.models.seq2seq import Seq2SeqRewriter
from w2sdefense.run_config import DefendRun


@dataclass(frozen=True)
class Scpd:
    """Paraphrases texts before the model reads them.

    Attributes:
        config: By which paraphraser.
    """

    config: ScpdConfig

    name: ClassVar[str] = "scpd"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PARAPHRASER})
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run.

        Raises:
            W2SError: Not exactly one source of paraphrases is named, or it is not there.
        """
        config = run.scpd
        if (config.paraphraser is None) == (config.file is None):
            raise ConfigError(
                "SCPD needs one source of paraphrases.",
                "Name a model with --scpd-paraphraser, or a file with --scpd-file.",
            )
        if config.paraphraser is not None:
            resolve_model(config.paraphraser)
        if config.file is not None:
            FileRewriter(config.file)
        return cls(config)

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Put the paraphraser before the model."""
        source = str(self.config.paraphraser or self.config.file)
        return Guarded(victim, self._paraphraser(), found={"scpd_paraphraser": source})

    def _paraphraser(self) -> Guard:
        """What makes paraphrases; another kind of it is one more branch here."""
        if self.config.file is not None:
            return FileRewriter(self.config.file)
        rewrite = Seq2SeqRewriter(str(self.config.paraphraser), self.config.max_length)
        prefix = self.config.prefix

        def paraphrase(texts: Sequence[str]) -> list[str]:
            written = rewrite([prefix + text for text in texts])
            return [new or text for text, new in zip(texts, written, strict=True)]

        return paraphrase
