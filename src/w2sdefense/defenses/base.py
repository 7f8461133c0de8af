"""What every defense takes and gives.

A weight defense returns a new model, an input defense a `Guarded` one: the same model behind
something that every text passes first. Evaluation sees no difference.

A defense is a file with its settings and its class, and a line in `catalog.py`. The section of
`DefendRun`, the flags, the title in tables, `w2s ls`, the keys of the ledger and the checks before
a run come from there.
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
"""Given the name of a phase ("teacher", "student"), the function that is told about its steps."""

Defended: TypeAlias = "Victim | Guarded"
"""What a defense gives back, and what an input defense can be put around."""

Guard: TypeAlias = Callable[[Sequence[str]], Sequence[str | None]]
"""For every text, in order: what the model is to read instead; None refuses the text."""

CHUNK = 128
"""Texts that pass a guard together: enough for full batches, few enough to show progress."""


class Need(StrEnum):
    """What a defense needs beside the victim."""

    CLEAN_DATA = "clean data"
    TEACHER = "teacher"
    LANGUAGE_MODEL = "language model"
    OTHER_MODELS = "other models"
    TRANSLATOR = "translator"
    PARAPHRASER = "paraphraser"
    BITSANDBYTES = "bitsandbytes"


class Leaves(StrEnum):
    """What a defense leaves on disk beside the record."""

    ADAPTER = "an adapter"
    MODEL = "a model"
    NOTHING = "the model as it is"


@dataclass(frozen=True)
class DefenseKit:
    """What the defender has to work with."""

    # clean data; `train` is trained on, `validation` makes choices, `test` is not touched
    data: Dataset
    folder: Path  # the run's folder: checkpoints and cached targets go below it
    teacher: TeacherConfig  # how the teacher is trained
    teacher_folder: Path  # where the teacher is kept, and found again by the next defense
    resume: bool = False  # continue from checkpoints in `folder`
    progress: PhaseProgress | None = None  # told about every step of every phase; None is silent

    def progress_of(self, phase: str) -> StepProgress | None:
        """The function to tell about the steps of one phase."""
        return self.progress(phase) if self.progress else None

    def fine_tune(self, victim: Victim, training: TrainingConfig, phase: str) -> None:
        """Train all parameters in place; the epoch with the lowest validation loss is kept."""
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
    """A way to make a victim safe: a frozen dataclass whose fields are the settings that it reads.

    A field has the name and the class of a section of `DefendRun`. A class that stands in the file
    of the defense is a section of its own; the others (`adapter`, `training` ...) are shared.

    The file is imported by `w2s --help`, so it imports torch and whatever needs it in functions.
    """

    name: ClassVar[str]  # on the command line
    title: ClassVar[str]  # in tables
    needs: ClassVar[tuple[Need, ...]]  # beside the victim
    leaves: ClassVar[Leaves]  # on disk
    needs_labels: ClassVar[bool] = False  # other defenses work for answers that are texts as well

    @classmethod
    def sections(cls) -> dict[str, type[Settings]]:
        """The sections of a run that it reads."""
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def of(cls, run: Any) -> Self:
        """The defense with its sections of a run."""
        return cls(**{name: getattr(run, name) for name in cls.sections()})

    def trains(self) -> bool:
        """Whether weights of the model itself are trained, be it only a head beside an adapter."""
        return self.leaves is not Leaves.NOTHING

    def check_model(self, student: Checkpoint, *, writes: bool) -> None:  # noqa: B027
        """Raise a `W2SError` if the config of a student rules out what the defense does."""

    def check(self) -> None:
        """Fail, before any work, if something that the settings ask for cannot be had.

        Raises:
            W2SError: A program, a package, a file or a model is missing, or settings contradict.
        """
        return None

    @abstractmethod
    def apply(self, victim: Victim, kit: DefenseKit) -> Defended:
        """Defend a victim. A weight defense takes the victim's model over and changes it."""


def victim_of(model: Defended) -> Victim:
    """The model itself, without the guards before it."""
    return model.victim if isinstance(model, Guarded) else model


class Guarded:
    """A victim behind a guard, which rewrites a text or refuses it before the model reads it.

    Guards compose: the outer one reads the text first. What a guard costs is paid at every
    prediction, so its time goes with every answer.

    Args:
        inner: The victim, or what another input defense made of it.
        guard: What texts pass first.
        found: What the defense chose or found out, for the record.
        notes: What a reader must know about it.
        history: Log of what was trained for the guard; default: that of `inner`.
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
        """Answer every text that the guard lets pass, in order; `progress` is told how many.

        A refused text has the answer `REFUSED`; its feature and its probabilities are those of the
        text as it came.
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
                # An inner guard that changed the text again has the last word.
                read=answer.read or (said if said != text else None),
                defense_seconds=answer.defense_seconds + seconds,
            )
            for text, said, new, answer in zip(
                texts, read, passed, self._inner.predict(read, progress), strict=True
            )
        ]
