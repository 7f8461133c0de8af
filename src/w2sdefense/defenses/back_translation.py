"""Back-translation: every text goes into another language and back before the model reads it.

As in Qi et al. 2021 (https://arxiv.org/abs/2105.12400). A trigger that is a phrase, or a rare
syntax, may not survive the round trip; a rare word that no translator knows does. The engine is a
pair of models that the user names, the program apertium (English-Spanish-English), or a file with
texts that were translated before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from w2sdefense.config import BackTranslationConfig, DefendRun
from w2sdefense.defenses.base import Defended, DefenseKit, Leaves, Need
from w2sdefense.defenses.guarded import Guard, Guarded
from w2sdefense.errors import ModelError, UnsafeCheckpointError
from w2sdefense.models.apertium import require_apertium, translate
from w2sdefense.models.locate import resolve_model
from w2sdefense.models.seq2seq import Seq2SeqRewriter
from w2sdefense.text.paraphrase_file import FileParaphraser

MODES = ("eng-spa", "spa-eng")
"""The round trip of apertium."""


@dataclass(frozen=True)
class BackTranslation:
    """Translates texts there and back before the model reads them.

    Attributes:
        config: By which engine.
    """

    config: BackTranslationConfig = field(default_factory=BackTranslationConfig)

    name: ClassVar[str] = "back-translation"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.TRANSLATOR})
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run.

        Raises:
            W2SError: The program, a model or the file is not there.
        """
        config = run.back_translation
        if config.engine == "apertium":
            require_apertium(MODES)
        elif config.engine == "models":
            _require_models(config)
        elif config.file is not None:
            FileParaphraser.read((config.file,))
        return cls(config)

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Put the round trip before the model."""
        return Guarded(
            victim, self._round_trip(), found={"back_translation_engine": self.config.engine}
        )

    def _round_trip(self) -> Guard:
        config = self.config
        if config.file is not None:
            return FileParaphraser.read((config.file,)).rewrite
        if config.engine == "apertium":
            return lambda texts: translate(texts, MODES)
        there, back = (
            Seq2SeqRewriter(name, config.max_length) for name in (config.to, config.back)
        )

        def round_trip(texts: Sequence[str]) -> list[str]:
            # A translator that says nothing must not leave the model without a text.
            return [new or text for text, new in zip(texts, back(there(texts)), strict=True)]

        return round_trip


def _require_models(config: BackTranslationConfig) -> None:
    try:
        for name in (config.to, config.back):
            resolve_model(name)
    except UnsafeCheckpointError:
        raise
    except ModelError as error:
        raise ModelError(
            error.problem,
            "Name two translation models with --back-translation-to and --back-translation-back, "
            "or use --back-translation-engine apertium or file.",
        ) from None
