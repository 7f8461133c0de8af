"""W2SDefense: weak-to-strong unlearning (Zhao et al. 2024, https://arxiv.org/abs/2410.14425).

A small clean teacher, fully fine-tuned, guides the poisoned student through PEFT with cross
entropy, logit distillation and feature alignment (`distill/losses.py`). Not in the paper are the
decoys, which are planted first and unlearned with the unknown trigger (`distill/decoys.py`);
triggers that `w2s scan` found take their place.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from w2sdefense.config import (
    AdapterConfig,
    DecoyConfig,
    DistillConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.data.types import Dataset
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need, PhaseProgress
from w2sdefense.errors import ConfigError

if TYPE_CHECKING:
    from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
    from w2sdefense.models.checkpoint import Checkpoint
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class W2SDefense(Defense):
    """Unlearns a backdoor under the guidance of a clean teacher.

    With 0 decoys it is the paper's form.
    """

    distill: DistillConfig = field(default_factory=DistillConfig)
    decoys: DecoyConfig = field(default_factory=DecoyConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "w2s"
    title: ClassVar[str] = "W2SDefense"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA, Need.TEACHER)
    leaves: ClassVar[Leaves] = Leaves.ADAPTER

    def check_model(self, student: Checkpoint, *, writes: bool) -> None:
        """Whether the triggers that a search found are of this model."""
        if self.decoys.found is None:
            return
        from w2sdefense.scan.victim import found_triggers

        if writes:
            raise ConfigError(
                "--decoys-found needs a classifier, but this model generates text.",
                "Omit --decoys-found.",
            )
        found_triggers(self.decoys.found, student.label_names)

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
        from w2sdefense.defenses.unlearning import Unlearning

        kit = DefenseKit(data, folder, TeacherConfig(), folder, resume, progress)
        return Unlearning(self, victim, kit, teacher).train()

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fit the teacher, or open the one fitted before, and train the student under it."""
        from w2sdefense.defenses.unlearning import Unlearning
        from w2sdefense.distill.fit_teacher import fit_or_load_teacher, teacher_job

        relu = self.distill.alignment == "release"
        teacher = fit_or_load_teacher(
            teacher_job(kit.teacher, kit.data, victim, relu=relu),
            kit.teacher_folder,
            run_folder=kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("teacher"),
        )
        unlearning = Unlearning(self, victim, kit, teacher)
        # The student needs the memory.
        del teacher
        return unlearning.train()
