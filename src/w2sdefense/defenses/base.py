"""The interface of a defense.

A weight defense changes the victim's model. An input defense returns a `Guarded` victim: the same
model, behind a guard that every text passes first. Evaluation handles both alike.

A defense is a file with its settings and its class, and a line in `catalog.py`. The section of
`DefendRun`, the flags, the title in tables, `w2s ls`, the keys of the ledger and the checks before
a run are derived from these.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, get_type_hints

from w2sdefense.config import Settings, TeacherConfig, TrainingConfig
from w2sdefense.data.types import REFUSED, Dataset

if TYPE_CHECKING:
    from w2sdefense.models.checkpoint import Checkpoint
    from w2sdefense.tasks import Prediction
    from w2sdefense.training.trainer import StepProgress
    from w2sdefense.victim import Victim

PhaseProgress: TypeAlias = "Callable[[str], StepProgress]"
"""Maps the name of a phase ("teacher", "student") to the function that reports its steps."""

Defended: TypeAlias = "Victim | Guarded"
"""The result of a defense, and the input of an input defense."""

Guard: TypeAlias = Callable[[Sequence[str]], Sequence[str | None]]
"""Maps texts to what the model should read instead, in order; None refuses the text."""

CHUNK = 128
"""Texts per call of a guard: enough for full batches, few enough to show progress."""


class Need(StrEnum):
    """What a defense needs in addition to the victim."""

    CLEAN_DATA = "clean data"
    TEACHER = "teacher"
    LANGUAGE_MODEL = "language model"
    OTHER_MODELS = "other models"
    TRANSLATOR = "translator"
    PARAPHRASER = "paraphraser"
    BITSANDBYTES = "bitsandbytes"


class Leaves(StrEnum):
    """What a defense writes to disk in addition to the record."""

    ADAPTER = "an adapter"
    MODEL = "a model"
    NOTHING = "the model as it is"


@dataclass(frozen=True)
class DefenseKit:
    """Data, folders and options that the defender provides."""

    # clean data: `train` is for training, `validation` for choices, and `test` is not used
    data: Dataset
    folder: Path  # the run's folder: checkpoints and cached targets go below it
    teacher: TeacherConfig  # how the teacher is trained
    teacher_folder: Path  # where the teacher is stored, and found by later defenses
    resume: bool = False  # continue from checkpoints in `folder`
    progress: PhaseProgress | None = None  # reports the steps of every phase; None is silent

    def progress_of(self, phase: str) -> StepProgress | None:
        """The function that reports the steps of one phase."""
        return self.progress(phase) if self.progress else None

    def fine_tune(self, victim: Victim, training: TrainingConfig, phase: str) -> None:
        """Train all parameters in place; keeps the epoch with the lowest validation loss."""
        from w2sdefense.victim import fine_tune

        fine_tune(
            victim,
            self.data.train,
            training,
            self.folder,
            validation=self.data.validation,
            resume=self.resume,
            progress=self.progress_of(phase),
        )


class Defense(ABC):
    """Base class of defenses: frozen dataclasses whose fields are the settings that they read.

    A field has the name and the class of a section of `DefendRun`. A settings class that is defined
    in the file of the defense is a section of its own; others (`adapter`, `training` ...) are
    shared.

    `w2s --help` imports the file, so torch and all that needs it is imported inside functions.
    """

    name: ClassVar[str]  # on the command line
    title: ClassVar[str]  # in tables
    needs: ClassVar[tuple[Need, ...]]  # in addition to the victim
    leaves: ClassVar[Leaves]  # on disk
    needs_labels: ClassVar[bool] = False  # True if it does not work for text answers

    @classmethod
    def sections(cls) -> dict[str, type[Settings]]:
        """The sections of a run that the defense reads: name -> settings class."""
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def of(cls, run: Any) -> Self:
        """Create the defense from its sections of a run."""
        return cls(**{name: getattr(run, name) for name in cls.sections()})

    def trains(self) -> bool:
        """Whether the defense trains weights; by default, if it writes a model or an adapter."""
        return self.leaves is not Leaves.NOTHING

    def check_model(self, student: Checkpoint, *, writes: bool) -> None:  # noqa: B027
        """Raise a `W2SError` if the defense cannot work on a student with this config."""

    def check(self) -> None:
        """Check, before any work, that everything the settings ask for is available.

        Raises:
            W2SError: A program, package, file or model is missing, or settings contradict.
        """
        return None

    @abstractmethod
    def apply(self, victim: Victim, kit: DefenseKit) -> Defended:
        """Defend a victim. A weight defense changes the victim's model in place."""


def victim_of(model: Defended) -> Victim:
    """The victim itself, without any guards."""
    return model.victim if isinstance(model, Guarded) else model


class Guarded:
    """A victim behind a guard, which rewrites or refuses each text before the model reads it.

    Guards can be nested; the outer one reads the text first. A guard runs at every prediction, so
    each answer includes the guard's time.

    Args:
        inner: The victim, possibly already behind a guard.
        guard: Rewrites or refuses texts.
        found: Values that the defense chose or measured, for the record.
        notes: Notes for readers of the record.
        history: Training log of the guard; default: that of `inner`.
    """

    def __init__(
        self,
        inner: Defended,
        guard: Guard,
        *,
        found: dict[str, float | int | str] | None = None,
        notes: tuple[str, ...] = (),
        history: list[dict[str, float]] | None = None,
    ) -> None:
        self._inner = inner
        self._guard = guard
        self.victim: Victim = victim_of(inner)
        self.found: dict[str, float | int | str] = {**inner.found, **(found or {})}
        self.notes: tuple[str, ...] = (*inner.notes, *notes)
        self.history: list[dict[str, float]] = inner.history if history is None else history

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` receives the number of texts of each batch.

        A refused text has the answer `REFUSED`; its feature and its probabilities are those of the
        unchanged text.
        """
        answers = []
        for start in range(0, len(texts), CHUNK):
            answers += self._predict_chunk(texts[start : start + CHUNK], progress)
        return answers

    def _predict_chunk(
        self, texts: Sequence[str], progress: Callable[[int], None] | None
    ) -> list[Prediction]:
        began = time.perf_counter()
        passed = self._guard(texts)
        seconds = (time.perf_counter() - began) / len(texts)
        read = [text if new is None else new for text, new in zip(texts, passed, strict=True)]
        return [
            replace(
                answer,
                answer=REFUSED if new is None else answer.answer,
                # If an inner guard changed the text again, the model read that version.
                read=answer.read or (said if said != text else None),
                defense_seconds=answer.defense_seconds + seconds,
            )
            for text, said, new, answer in zip(
                texts, read, passed, self._inner.predict(read, progress), strict=True
            )
        ]
