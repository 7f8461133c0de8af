"""Back-translation: every text goes into another language and back before the model reads it.

As in Qi et al. 2021 (https://arxiv.org/abs/2105.12400). A trigger that is a phrase, or a rare
syntax, may not survive the round trip; a rare word that no translator knows does. The engine is a
pair of models that the user names, the program apertium (English-Spanish-English), or a file with
texts that were translated before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

from pydantic import model_validator

from w2sdefense.config import Positive, Settings, TaskName, setting
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Leaves, Need
from w2sdefense.defenses.guarded import Guard, Guarded
from w2sdefense.errors import ModelError, UnsafeCheckpointError
from w2sdefense.models.apertium import require_apertium, translate
from w2sdefense.text.paraphrase_file import FileParaphraser

MODES = ("eng-spa", "spa-eng")
"""The round trip of apertium."""


class BackTranslationConfig(Settings):
    """Back-translation: every text goes through another language."""

    engine: Literal["models", "apertium", "file"] = setting(
        "models",
        "models: two translation models; apertium: the program, English-Spanish-"
        "English, needs no network; file: translated before.",
    )
    to: str = setting(
        "Helsinki-NLP/opus-mt-en-de", "Model that translates into another language.", files=True
    )
    back: str = setting("Helsinki-NLP/opus-mt-de-en", "Model that translates back.", files=True)
    file: Path | None = setting(
        None,
        "CSV, JSONL or Parquet file with the columns original and text, for every test "
        "text, with and without the trigger (see w2s pair).",
        files=True,
    )
    max_length: Positive = setting(128, "Longest text in the translators' tokens.", advanced=True)

    @model_validator(mode="after")
    def _file_with_engine(self) -> Self:
        if (self.engine == "file") != (self.file is not None):
            raise ValueError("engine file and a file go together")
        return self


@dataclass(frozen=True)
class BackTranslation(Defense):
    """Translates texts there and back before the model reads them.

    Attributes:
        back_translation: By which engine.
    """

    back_translation: BackTranslationConfig = field(default_factory=BackTranslationConfig)

    name: ClassVar[str] = "back-translation"
    title: ClassVar[str] = "Back-translation"
    needs: ClassVar[tuple[Need, ...]] = (Need.TRANSLATOR,)
    leaves: ClassVar[Leaves] = Leaves.NOTHING
    tasks: ClassVar[tuple[TaskName, ...]] = get_args(TaskName)

    def check(self) -> None:
        """Look for the program, the models or the file of the engine."""
        config = self.back_translation
        if config.engine == "apertium":
            require_apertium(MODES)
        elif config.engine == "models":
            _require_models(config)
        elif config.file is not None:
            FileParaphraser.read((config.file,))

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Put the round trip before the model."""
        return Guarded(
            victim,
            self._round_trip(),
            found={"back_translation_engine": self.back_translation.engine},
        )

    def _round_trip(self) -> Guard:
        config = self.back_translation
        if config.file is not None:
            return FileParaphraser.read((config.file,)).rewrite
        if config.engine == "apertium":
            return lambda texts: translate(texts, MODES)
        from w2sdefense.models.seq2seq import Seq2SeqRewriter

        there, back = (
            Seq2SeqRewriter(name, config.max_length) for name in (config.to, config.back)
        )

        def round_trip(texts: Sequence[str]) -> list[str]:
            # A translator that says nothing must not leave the model without a text.
            return [new or text for text, new in zip(texts, back(there(texts)), strict=True)]

        return round_trip


def _require_models(config: BackTranslationConfig) -> None:
    from w2sdefense.models.checkpoint import resolve

    try:
        for name in (config.to, config.back):
            resolve(name)
    except UnsafeCheckpointError:
        raise
    except ModelError as error:
        raise ModelError(
            error.problem,
            "Name two translation models with --back-translation-to and --back-translation-back, "
            "or use --back-translation-engine apertium or file.",
        ) from None
