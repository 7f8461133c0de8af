"""What W2SDefense does with a fitted teacher: search, change the clean texts, train the student."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from w2sdefense.data.checks import require_aligned
from w2sdefense.data.splits import limit
from w2sdefense.data.types import Dataset
from w2sdefense.defenses.base import PhaseProgress
from w2sdefense.distill.insertions import with_insertions
from w2sdefense.distill.student import Lessons, train_student
from w2sdefense.distill.targets import Targets, doubt_about, targets_of, teacher_targets
from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
from w2sdefense.distill.wordings import with_wordings
from w2sdefense.scan.victim import in_words, save_candidates, scan_victim, with_candidates
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim

if TYPE_CHECKING:
    from w2sdefense.defenses.w2s import W2SDefense


@dataclass(frozen=True)
class Prepared:
    """What a student is trained on, and what is known before it begins.

    Attributes:
        lessons: Clean data, with what was put into it.
        targets: What the teacher says of it.
        found: What the search found, for the record.
        notes: What speaks against the teacher.
    """

    lessons: Lessons
    targets: Targets
    found: dict[str, float | int | str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unlearning:
    """One run of W2SDefense.

    Attributes:
        settings: The settings of the defense.
        victim: The poisoned model; it is taken over and changed.
        folder: Where checkpoints and the teacher's targets go.
        resume: Whether to continue from a checkpoint there.
        progress: Called with the name of each phase; None is silent.
    """

    settings: W2SDefense
    victim: Victim
    folder: Path
    resume: bool
    progress: PhaseProgress | None

    def prepare(self, data: Dataset, teacher: LabelTeacher | TokenTeacher, cache: Path) -> Prepared:
        """Put into the clean texts what belongs there, and ask the teacher about them.

        Args:
            data: Clean data.
            teacher: A fitted teacher.
            cache: Where what a search finds is kept.

        Raises:
            DataError: The labels of the data are not in the model's order.
        """
        settings, victim = self.settings, self.victim
        require_aligned(data, victim.label_names)
        seed, result = settings.training.seed, None
        found: dict[str, float | int | str] = {}
        # A search compares label probabilities, which text answers do not have.
        if settings.scan.rate and isinstance(teacher, LabelTeacher):
            told = self.progress("scan") if self.progress else None
            result = scan_victim(victim, teacher, data, settings.scan, seed, cache, told)
            found = in_words(result, victim.label_names)
            if this_process().is_main_process:
                save_candidates(self.folder, result, victim.label_names)
        # A file may be sorted by label; of a sample this is its beginning.
        data = replace(data, train=limit(data.train, settings.distill.student_rows, seed=0))
        # First, as long as all texts begin and end with the prompt.
        data = with_wordings(data, settings.wordings, seed)
        if result is not None:
            data = with_candidates(data, result.candidates, settings.scan.rate, seed)
        data = with_insertions(data, victim.tokenizer, settings.insertions, seed)
        lessons = Lessons.of(data)
        asked = (lessons.train.asked, lessons.validation.asked)
        targets = targets_of(teacher, victim.task, asked, self.folder / "targets")
        notes: tuple[str, ...] = ()
        if isinstance(teacher, LabelTeacher):
            said = teacher_targets(teacher, data.validation, self.folder / "targets")
            if doubt := doubt_about(said, data.validation):
                warnings.warn(doubt, stacklevel=2)
                notes = (doubt,)
        return Prepared(lessons, targets, found, notes)

    def train(self, prepared: Prepared) -> Victim:
        """Train the student."""
        student = train_student(
            self.victim,
            prepared.lessons,
            prepared.targets,
            distill=self.settings.distill,
            adapter=self.settings.adapter,
            training=self.settings.training,
            folder=self.folder,
            resume=self.resume,
            progress=self.progress("student") if self.progress else None,
        )
        student.found |= prepared.found
        student.notes += prepared.notes
        return student
