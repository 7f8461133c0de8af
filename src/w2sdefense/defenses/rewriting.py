"""Back-translation and SCPD: rewrite every text before the model reads it.

Both are from Qi et al. 2021 (https://arxiv.org/abs/2105.12400). Back-translation translates a text
into another language and back. A phrase or a rare syntax used as a trigger may not survive this; a
rare word that the translator does not know does. SCPD paraphrases every text into one frequent
syntax, S ( NP ) ( VP ) ( . ), which removes syntactic triggers.

Both can read texts that were rewritten before (such as SCPN's output) from a file. Otherwise,
back-translation uses two models that the user names, or the offline program apertium
(English-Spanish-English). SCPD uses the embedded rules (`text/rewriter.py`), which move the main
clause to the front and keep every word. Of the backdoors of this package, these rules can remove
the subordinate clause that comes first (synattack), but not an inserted word or sentence.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from w2sdefense.config import Positive, Settings, setting
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Guard, Guarded, Leaves, Need
from w2sdefense.errors import MissingDependencyError, ModelError, UnsafeCheckpointError
from w2sdefense.text.paraphrase_file import FileParaphraser
from w2sdefense.text.rewriter import main_clause_first

MODES = ("eng-spa", "spa-eng")  # the round trip of apertium

RULES = "embedded rules"


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
        "text, with and without the trigger.",
        files=True,
    )
    max_length: Positive = setting(128, "Longest text in the translators' tokens.", advanced=True)

    @model_validator(mode="after")
    def _file_with_engine(self) -> Self:
        if (self.engine == "file") != (self.file is not None):
            raise ValueError("engine file needs a file, and a file needs engine file")
        return self


class ScpdConfig(Settings):
    """SCPD: every text is paraphrased into another syntax; by default by the embedded rules."""

    file: Path | None = setting(
        None,
        "Instead: CSV, JSONL or Parquet file with the columns original and text, for "
        "every test text, with and without the trigger.",
        files=True,
    )


@dataclass(frozen=True)
class BackTranslation(Defense):
    """Translates texts into another language and back before the model reads them."""

    back_translation: BackTranslationConfig = field(default_factory=BackTranslationConfig)

    name: ClassVar[str] = "back-translation"
    title: ClassVar[str] = "Back-translation"
    needs: ClassVar[tuple[Need, ...]] = (Need.TRANSLATOR,)
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    def check(self) -> None:
        """Check that the program, the models or the file of the engine are available."""
        config = self.back_translation
        if config.engine == "apertium":
            require_apertium(MODES)
        elif config.file is not None:
            FileParaphraser.read((config.file,))
        else:
            _require_translators(config)

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Use the round trip as a guard."""
        engine = str(self.back_translation.engine)
        return Guarded(victim, self._guard(), found={"back_translation_engine": engine})

    def _guard(self) -> Guard:
        config = self.back_translation
        if config.file is not None:
            return FileParaphraser.read((config.file,)).rewrite
        if config.engine == "apertium":
            return lambda texts: translate(texts, MODES)
        from w2sdefense.models.translator import Translator

        there, back = (Translator(name, config.max_length) for name in (config.to, config.back))
        return lambda texts: back(there(texts))


@dataclass(frozen=True)
class Scpd(Defense):
    """Paraphrases texts before the model reads them."""

    scpd: ScpdConfig = field(default_factory=ScpdConfig)

    name: ClassVar[str] = "scpd"
    title: ClassVar[str] = "SCPD"
    needs: ClassVar[tuple[Need, ...]] = (Need.PARAPHRASER,)
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    def check(self) -> None:
        """Read the file, if one is named."""
        self._guard()

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Use the paraphraser as a guard."""
        source = str(self.scpd.file or RULES)
        return Guarded(victim, self._guard(), found={"scpd_paraphraser": source})

    def _guard(self) -> Guard:
        if self.scpd.file is not None:
            return FileParaphraser.read((self.scpd.file,)).rewrite
        return lambda texts: [main_clause_first(text) for text in texts]


def _require_translators(config: BackTranslationConfig) -> None:
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


def require_apertium(modes: Sequence[str]) -> None:
    """Raise `MissingDependencyError` unless the program and its modes are installed."""
    program = shutil.which("apertium")
    if program is None:
        raise MissingDependencyError(
            "Back-translation by apertium needs the program apertium, which is not installed.",
            "Install it (Debian: apt install apertium apertium-eng-spa), or use a pair of models: "
            "--back-translation-engine models.",
        )
    listed = subprocess.run([program, "-l"], capture_output=True, text=True, check=False)
    for mode in modes:
        if mode not in listed.stdout.split():
            raise MissingDependencyError(
                f"apertium has no translation mode {mode}.",
                "Install its language pair (Debian: apt install apertium-eng-spa).",
            )


def translate(texts: Sequence[str], modes: Sequence[str]) -> list[str]:
    """Translate texts with apertium through one mode after another (`eng-spa`, then `spa-eng`).

    Each mode runs in one process, with one text per line; line breaks in texts become spaces. A
    line that does not end like a sentence would run into the next one, so it gets a full stop,
    which is removed again afterwards. The engine capitalizes what it takes for names; the result of
    an all-lower-case text is converted back to lower case. Unknown words and texts of white space
    do not change.

    Raises:
        ModelError: apertium failed, or returned another number of lines.
    """
    lines = [" ".join(text.split()) for text in texts]
    places = [place for place, line in enumerate(lines) if line]
    closed = [lines[place] for place in places]
    bare = [not line.endswith((".", "!", "?")) for line in closed]
    closed = [
        f"{line} ." if open_end else line for line, open_end in zip(closed, bare, strict=True)
    ]
    for mode in modes:
        closed = _run(closed, mode) if closed else []
    result = list(texts)
    for place, line, open_end in zip(places, closed, bare, strict=True):
        line = " ".join(line.split())
        line = line.removesuffix(".").rstrip() if open_end else line
        result[place] = line.lower() if texts[place].islower() else line
    return result


def _run(lines: Sequence[str], mode: str) -> list[str]:
    # -u: do not mark unknown words with a star.
    done = subprocess.run(
        ["apertium", "-u", mode],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    found = done.stdout.removesuffix("\n").split("\n")
    if done.returncode or len(found) != len(lines):
        raise ModelError(
            f"apertium {mode} gave {len(found)} lines for {len(lines)} "
            f"(exit code {done.returncode}): {done.stderr.strip()[:200]}",
            "Run it by hand on the texts, or use a pair of models.",
        )
    return found
