"""W2SDefense: weak-to-strong unlearning (Zhao et al. 2024, https://arxiv.org/abs/2410.14425).

A small clean teacher, fully fine-tuned, guides the poisoned student through PEFT with cross
entropy, logit distillation and feature alignment. The losses are in `distill/losses.py`, the
teacher in `distill/teacher.py`.

Three things are not in the paper, and each can be left out: the clean texts may carry pieces that a
search found suspicious (`scan/`), random pieces (`distill/insertions.py`), and other wordings of
the prompt that they stand in (`distill/wordings.py`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

from w2sdefense.config import (
    AdapterConfig,
    DefendRun,
    DistillConfig,
    InsertionConfig,
    ScanTrainingConfig,
    TrainingConfig,
    WordingConfig,
)
from w2sdefense.data.checks import require_aligned
from w2sdefense.data.splits import limit
from w2sdefense.data.types import Dataset
from w2sdefense.defenses.base import DefenseKit, Leaves, Need, PhaseProgress
from w2sdefense.distill.fit_teacher import fit_or_load_teacher, teacher_job
from w2sdefense.distill.insertions import with_insertions
from w2sdefense.distill.student import Lessons, train_student
from w2sdefense.distill.targets import Targets, doubt_about, targets_of, teacher_targets
from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
from w2sdefense.distill.wordings import with_wordings
from w2sdefense.scan.victim import in_words, save_suspects, scan_victim, with_suspects
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim


@dataclass(frozen=True)
class W2SDefense:
    """Unlearns a backdoor under the guidance of a clean teacher.

    Attributes:
        distill: Weights of the three losses, temperature, alignment and feature scale.
        adapter: The adapter's settings.
        training: Optimization settings of the student.
        scan: The search for suspicious pieces (not in the paper), and how many of the clean texts
            get one; rate 0 leaves it out.
        insertions: Random pieces in the clean texts (not in the paper); rate 0 leaves them out.
        wordings: Other wordings of a prompt (not in the paper); rate 0 leaves it as it is.
    """

    distill: DistillConfig = field(default_factory=DistillConfig)
    scan: ScanTrainingConfig = field(default_factory=ScanTrainingConfig)
    insertions: InsertionConfig = field(default_factory=InsertionConfig)
    wordings: WordingConfig = field(default_factory=WordingConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "w2s"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_DATA, Need.TEACHER})
    leaves: ClassVar[Leaves] = Leaves.ADAPTER

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run."""
        return cls(
            distill=run.distill,
            scan=run.scan,
            insertions=run.insertions,
            wordings=run.wordings,
            adapter=run.adapter,
            training=run.training,
        )

    def fit(
        self,
        victim: Victim,
        data: Dataset,
        teacher: LabelTeacher | TokenTeacher,
        folder: Path,
        *,
        resume: bool = False,
        progress: PhaseProgress | None = None,
    ) -> Victim:
        """Train the student under a fitted teacher.

        Args:
            victim: The poisoned model; it is taken over and changed.
            data: Clean data, its labels in the model's order.
            teacher: A fitted teacher of the victim's width.
            folder: Where checkpoints and the teacher's targets go.
            resume: Continue from a checkpoint in `folder`.
            progress: Called with the name of each phase; see `PhaseProgress`.

        Returns:
            The cleaned model with its adapter unmerged.

        Raises:
            DataError: The labels of the data are not in the model's order.
        """
        prepared = self._prepare(victim, data, teacher, folder, folder, progress)
        return self._train(victim, prepared, folder, resume=resume, progress=progress)

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fit the teacher, or open the one fitted before, and train the student under it."""
        relu = self.distill.alignment == "release"
        teacher = fit_or_load_teacher(
            teacher_job(kit.teacher, kit.data, victim, relu=relu),
            kit.teacher_folder,
            run_folder=kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("teacher"),
        )
        prepared = self._prepare(
            victim, kit.data, teacher, kit.folder, kit.teacher_folder, kit.progress
        )
        # The student needs the memory.
        del teacher
        return self._train(victim, prepared, kit.folder, resume=kit.resume, progress=kit.progress)

    def _prepare(
        self,
        victim: Victim,
        data: Dataset,
        teacher: LabelTeacher | TokenTeacher,
        folder: Path,
        cache: Path,
        progress: PhaseProgress | None,
    ) -> _Prepared:
        """Put into the clean texts what belongs there, and ask the teacher about them."""
        require_aligned(data, victim.label_names)
        seed, suspects = self.training.seed, []
        # A search compares label probabilities, which text answers do not have.
        if self.scan.rate and isinstance(teacher, LabelTeacher):
            told = progress("scan") if progress else None
            suspects = scan_victim(victim, teacher, data, self.scan, seed, cache, told)
            if this_process().is_main_process:
                save_suspects(folder, suspects, victim.label_names)
        # A file may be sorted by label; of a sample this is its beginning.
        data = replace(data, train=limit(data.train, self.distill.student_rows, seed=0))
        # First, as long as all texts begin and end with the prompt.
        data = with_wordings(data, self.wordings, seed)
        if suspects:
            data = with_suspects(data, suspects, self.scan.rate, seed)
        data = with_insertions(data, victim.tokenizer, self.insertions, seed)
        lessons = Lessons.of(data)
        asked = (lessons.train.asked, lessons.validation.asked)
        targets = targets_of(teacher, victim.task, asked, folder / "targets")
        notes: tuple[str, ...] = ()
        if isinstance(teacher, LabelTeacher):
            said = teacher_targets(teacher, data.validation, folder / "targets")
            if doubt := doubt_about(said, data.validation):
                warnings.warn(doubt, stacklevel=2)
                notes = (doubt,)
        return _Prepared(lessons, targets, in_words(suspects, victim.label_names), notes)

    def _train(
        self,
        victim: Victim,
        prepared: _Prepared,
        folder: Path,
        *,
        resume: bool,
        progress: PhaseProgress | None,
    ) -> Victim:
        student = train_student(
            victim,
            prepared.lessons,
            prepared.targets,
            distill=self.distill,
            adapter=self.adapter,
            training=self.training,
            folder=folder,
            resume=resume,
            progress=progress("student") if progress else None,
        )
        student.found |= prepared.found
        student.notes += prepared.notes
        return student


@dataclass(frozen=True)
class _Prepared:
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
