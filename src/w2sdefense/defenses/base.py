"""What every defense takes and gives.

A weight defense returns a new model, an input defense a `Guarded` one: the same model behind
something that every text passes first. Evaluation sees no difference. What a defense needs beside
the victim, and what it leaves on disk, is declared, so that tables can show it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol, Self

from w2sdefense.config import DefendRun, TeacherConfig
from w2sdefense.data.types import Dataset
from w2sdefense.defenses.guarded import Guarded
from w2sdefense.training.trainer import StepProgress
from w2sdefense.victim import Victim

PhaseProgress = Callable[[str], StepProgress]
"""Given the name of a phase ("teacher", "student"), the function that is told about its steps."""

Defended = Victim | Guarded
"""What a defense gives back, and what an input defense can be put around."""


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
    """What the defender has to work with.

    Attributes:
        data: Clean data; `train` is trained on, `validation` makes choices, `test` is not touched.
        folder: The run's folder: checkpoints and cached targets go below it.
        teacher: How the teacher is trained.
        teacher_folder: Where the teacher is kept, and found again by the next defense.
        resume: Continue from checkpoints in `folder`.
        progress: Told about every step of every phase; None is silent.
    """

    data: Dataset
    folder: Path
    teacher: TeacherConfig
    teacher_folder: Path
    resume: bool = False
    progress: PhaseProgress | None = None

    def progress_of(self, phase: str) -> StepProgress | None:
        """The function to tell about the steps of one phase."""
        return self.progress(phase) if self.progress else None


class Defense(Protocol):
    """A way to make a victim safe."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]]
    leaves: ClassVar[Leaves]

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run.

        Raises:
            W2SError: Something that the defense needs (a program, a package, a file, a model) is
                not there. This is found out here, before any work.
        """
        ...

    def apply(self, victim: Victim, kit: DefenseKit) -> Defended:
        """Defend a victim. A weight defense takes the victim's model over and changes it."""
        ...
