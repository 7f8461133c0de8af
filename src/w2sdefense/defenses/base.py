"""What every defense takes and gives.

A weight defense returns a new model, an input defense a `Guarded` one: the same model behind
something that every text passes first. Evaluation sees no difference.

A defense is a file of its own and a line in `catalog.py`. The file holds the settings and the
class; the section of `DefendRun`, the flags, the title in tables, `w2s ls`, the keys of the ledger
and the checks before a run come from there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, get_type_hints

from w2sdefense.config import DEFAULT_TASK, Settings, TaskName, TeacherConfig

if TYPE_CHECKING:
    from w2sdefense.data.types import Dataset
    from w2sdefense.defenses.guarded import Guarded
    from w2sdefense.training.trainer import StepProgress
    from w2sdefense.victim import Victim

PhaseProgress: TypeAlias = "Callable[[str], StepProgress]"
"""Given the name of a phase ("teacher", "student"), the function that is told about its steps."""

Defended: TypeAlias = "Victim | Guarded"
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


class Defense(ABC):
    """A way to make a victim safe: a frozen dataclass whose fields are the settings that it reads.

    A field has the name and the class of a section of `DefendRun`. A class that stands in the file
    of the defense is a section of its own; the others (`adapter`, `training` ...) are shared.

    The file is imported by `w2s --help`, so it imports torch and whatever needs it in functions.

    Attributes:
        name: Name on the command line.
        title: Name in tables.
        needs: What it needs beside the victim.
        leaves: What it leaves on disk.
        tasks: Tasks that it works for.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[Need, ...]]
    leaves: ClassVar[Leaves]
    tasks: ClassVar[tuple[TaskName, ...]] = (DEFAULT_TASK,)

    @classmethod
    def sections(cls) -> dict[str, type[Settings]]:
        """The sections of a run that it reads."""
        hints = get_type_hints(cls)
        return {field.name: hints[field.name] for field in fields(cls)}  # type: ignore[arg-type]

    @classmethod
    def own_sections(cls) -> dict[str, type[Settings]]:
        """Those of them whose class stands in its own file."""
        return {n: kind for n, kind in cls.sections().items() if kind.__module__ == cls.__module__}

    @classmethod
    def of(cls, run: Any) -> Self:
        """The defense with its sections of a run."""
        return cls(**{name: getattr(run, name) for name in cls.sections()})

    @classmethod
    def from_run(cls, run: Any) -> Self:
        """The defense with its sections of a run, looked at.

        Raises:
            W2SError: See `check`.
        """
        defense = cls.of(run)
        defense.check()
        return defense

    def trains(self) -> bool:
        """Whether weights of the model itself are trained, be it only a head beside an adapter."""
        return self.leaves is not Leaves.NOTHING

    def check(self) -> None:
        """Fail, before any work, if something that the settings ask for cannot be had.

        Raises:
            W2SError: A program, a package, a file or a model is missing, or settings contradict.
        """
        return None

    @abstractmethod
    def apply(self, victim: Victim, kit: DefenseKit) -> Defended:
        """Defend a victim. A weight defense takes the victim's model over and changes it."""
