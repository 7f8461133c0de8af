"""W2SDefense: weak-to-strong unlearning (Zhao et al. 2024, https://arxiv.org/abs/2410.14425).

A small clean teacher, fully fine-tuned, guides the poisoned student through PEFT with cross
entropy, logit distillation and feature alignment. The losses are in `distill/losses.py`, the
teacher in `distill/teacher.py`.

Four things are not in the paper, and each can be left out: the clean texts may carry pieces that a
search found suspicious (`scan/`), random pieces (`distill/insertions.py`), other wordings of the
prompt that they stand in (`distill/wordings.py`), and soft triggers (`distill/soft_triggers.py`).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from w2sdefense.config import (
    AdapterConfig,
    DistillConfig,
    InsertionConfig,
    ScanTrainingConfig,
    SoftTriggerConfig,
    TaskName,
    TrainingConfig,
    WordingConfig,
)
from w2sdefense.data.checks import require_aligned
from w2sdefense.data.splits import limit
from w2sdefense.data.types import TextDataset
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need

if TYPE_CHECKING:
    from w2sdefense.distill.targets import SplitTargets
    from w2sdefense.distill.teacher import Teacher
    from w2sdefense.training.trainer import StepProgress
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class W2SDefense(Defense):
    """Unlearns a backdoor under the guidance of a clean teacher.

    Attributes:
        distill: Weights of the three losses, temperature, alignment and feature scale.
        adapter: The adapter's settings.
        training: Optimization settings of the student.
        scan: The search for suspicious pieces (not in the paper), and how many of the clean texts
            get one; rate 0 leaves it out.
        insertions: Random pieces in the clean texts (not in the paper); rate 0 leaves them out.
        wordings: Other wordings of a prompt (not in the paper); rate 0 leaves it as it is.
        soft: Soft triggers (not in the paper); 0 per label leaves them out.
    """

    distill: DistillConfig = field(default_factory=DistillConfig)
    scan: ScanTrainingConfig = field(default_factory=ScanTrainingConfig)
    insertions: InsertionConfig = field(default_factory=InsertionConfig)
    wordings: WordingConfig = field(default_factory=WordingConfig)
    soft: SoftTriggerConfig = field(default_factory=SoftTriggerConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "w2s"
    title: ClassVar[str] = "W2SDefense"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA, Need.TEACHER)
    leaves: ClassVar[Leaves] = Leaves.ADAPTER
    tasks: ClassVar[tuple[TaskName, ...]] = get_args(TaskName)

    def fit(
        self,
        victim: Victim,
        data: TextDataset,
        teacher: Teacher,
        folder: Path,
        *,
        resume: bool = False,
        progress: StepProgress | None = None,
    ) -> Victim:
        """Train the student under a fitted teacher.

        Args:
            victim: The poisoned model; it is taken over and changed.
            data: Clean data.
            teacher: A fitted teacher of the victim's width.
            folder: Where checkpoints and the teacher's targets go.
            resume: Continue from a checkpoint in `folder`.
            progress: Called after every step with (step, steps, losses).

        Returns:
            The cleaned model with its adapter unmerged.

        Raises:
            DataError: The labels of the data are not in the model's order.
        """
        lesson = self._prepare(victim, data, teacher, folder, folder, progress)
        return self._train(victim, lesson, folder, resume=resume, progress=progress)

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fit the teacher, or open the one fitted before, and train the student under it."""
        from w2sdefense.distill.teacher import fit_or_load_teacher

        teacher = fit_or_load_teacher(
            kit.teacher,
            kit.data,
            victim.width,
            kit.teacher_folder,
            relu=self.distill.alignment == "release",
            run_folder=kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("teacher"),
        )
        progress = kit.progress_of("scan") if self.scan.rate else None
        lesson = self._prepare(victim, kit.data, teacher, kit.folder, kit.teacher_folder, progress)
        # The student needs the memory.
        del teacher
        return self._train(
            victim, lesson, kit.folder, resume=kit.resume, progress=kit.progress_of("student")
        )

    def _prepare(
        self,
        victim: Victim,
        data: TextDataset,
        teacher: Teacher,
        folder: Path,
        cache: Path,
        progress: StepProgress | None,
    ) -> _Lesson:
        """Put into the clean texts what belongs there, and ask the teacher about them."""
        from w2sdefense.distill.insertions import with_insertions
        from w2sdefense.distill.targets import SplitTargets, doubt_about, teacher_targets
        from w2sdefense.distill.wordings import with_wordings
        from w2sdefense.scan.victim import in_words, save_suspects, scan_victim, with_suspects
        from w2sdefense.training.trainer import this_process

        require_aligned(data, victim.label_names)
        seed, suspects = self.training.seed, []
        if self.scan.rate:
            suspects = scan_victim(victim, teacher, data, self.scan, seed, cache, progress)
            if this_process().is_main_process:
                save_suspects(folder, suspects, victim.label_names)
        # A file may be sorted by label; of a sample this is its beginning.
        data = replace(data, train=limit(data.train, self.distill.student_rows, seed=0))
        # First, as long as all texts begin and end with the prompt.
        data = with_wordings(data, self.wordings, seed)
        if suspects:
            data = with_suspects(data, suspects, self.scan.rate, seed)
        data = with_insertions(data, victim.tokenizer, self.insertions, seed)
        targets = SplitTargets(
            train=teacher_targets(teacher, data.train, folder / "targets"),
            validation=teacher_targets(teacher, data.validation, folder / "targets"),
        )
        doubt = doubt_about(targets.validation, data.validation)
        if doubt:
            warnings.warn(doubt, stacklevel=2)
        return _Lesson(data, targets, in_words(suspects, victim.label_names), doubt)

    def _train(
        self,
        victim: Victim,
        lesson: _Lesson,
        folder: Path,
        *,
        resume: bool,
        progress: StepProgress | None,
    ) -> Victim:
        from w2sdefense.distill.student import train_student

        student = train_student(
            victim,
            lesson.data,
            lesson.targets,
            distill=self.distill,
            soft=self.soft,
            adapter=self.adapter,
            training=self.training,
            folder=folder,
            resume=resume,
            progress=progress,
        )
        student.found |= lesson.found
        if lesson.doubt:
            student.notes += (lesson.doubt,)
        return student


@dataclass(frozen=True)
class _Lesson:
    """What a student is trained on.

    Attributes:
        data: Clean data, with what was put into it.
        targets: What the teacher says of it.
        found: What the search found, for the record.
        doubt: What speaks against the teacher.
    """

    data: TextDataset
    targets: SplitTargets
    found: dict[str, float | int | str]
    doubt: str | None
