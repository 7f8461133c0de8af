"""W2SDefense: weak-to-strong unlearning (Zhao et al. 2024, https://arxiv.org/abs/2410.14425).

A small clean teacher, fully fine-tuned, guides the poisoned student through PEFT with cross
entropy, logit distillation and feature alignment. The losses are in `distill/losses.py`, the
teacher in `distill/teacher.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from w2sdefense.config import (
    AdapterConfig,
    DistillConfig,
    InsertionConfig,
    SoftTriggerConfig,
    TrainingConfig,
)
from w2sdefense.data.types import TextDataset
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.distill.insertions import with_insertions
from w2sdefense.distill.student import train_student
from w2sdefense.distill.targets import SplitTargets, teacher_targets
from w2sdefense.distill.teacher import Teacher, fit_or_load_teacher
from w2sdefense.run_config import DefendRun
from w2sdefense.training import StepProgress
from w2sdefense.victim import Victim


@dataclass(frozen=True)
class W2SDefense:
    """Unlearns a backdoor under the guidance of a clean teacher.

    Attributes:
        distill: Weights of the three losses, temperature, alignment and feature scale.
        adapter: The adapter's settings.
        training: Optimization settings of the student.
        insertions: Random pieces in the clean texts (not in the paper); rate 0 leaves them out.
        soft: Soft triggers (not in the paper); 0 per label leaves them out.
    """

    distill: DistillConfig = field(default_factory=DistillConfig)
    insertions: InsertionConfig = field(default_factory=InsertionConfig)
    soft: SoftTriggerConfig = field(default_factory=SoftTriggerConfig)
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
            insertions=run.insertions,
            soft=run.soft,
            adapter=run.adapter,
            training=run.training,
        )

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
        """
        data = self._changed(data, victim)
        targets = _targets(teacher, data, folder)
        return self._train(victim, data, targets, folder, resume=resume, progress=progress)

    def _changed(self, data: TextDataset, victim: Victim) -> TextDataset:
        return with_insertions(data, victim.tokenizer, self.insertions, self.training.seed)

    def _train(
        self,
        victim: Victim,
        data: TextDataset,
        targets: SplitTargets,
        folder: Path,
        *,
        resume: bool,
        progress: StepProgress | None,
    ) -> Victim:
        return train_student(
            victim,
            data,
            targets,
            distill=self.distill,
            soft=self.soft,
            adapter=self.adapter,
            training=self.training,
            folder=folder,
            resume=resume,
            progress=progress,
        )

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fit the teacher, or open the one fitted before, and train the student under it."""
        teacher = fit_or_load_teacher(
            kit.teacher,
            kit.data,
            victim.width,
            kit.teacher_folder,
            relu=self.distill.alignment == "release",
            # What lies in the run's own folder is of a run that was cut off and begins anew.
            replace=kit.teacher_folder.is_relative_to(kit.folder),
            resume=kit.resume,
            progress=kit.progress_of("teacher"),
        )
        data = self._changed(kit.data, victim)
        targets = _targets(teacher, data, kit.folder)
        # The student needs the memory.
        del teacher
        return self._train(
            victim,
            data,
            targets,
            kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("student"),
        )


def _targets(teacher: Teacher, data: TextDataset, folder: Path) -> SplitTargets:
    cache = folder / "targets"
    return SplitTargets(
        train=teacher_targets(teacher, data.train, cache),
        validation=teacher_targets(teacher, data.validation, cache),
    )
