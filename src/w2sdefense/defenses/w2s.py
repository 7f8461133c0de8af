"""W2SDefense: weak-to-strong unlearning (Zhao et al. 2024, https://arxiv.org/abs/2410.14425).

A small clean teacher, fully fine-tuned, guides the poisoned student through PEFT with cross
entropy, logit distillation and feature alignment. The losses are in `distill/losses.py`, the
teacher in `distill/teacher.py`, the order of the work in `unlearning.py`.

Three things are not in the paper, and each can be left out: decoys are planted first and unlearned
with the unknown trigger (`distill/decoys.py`), the clean texts may carry candidate triggers that a
search found (`scan/`), and other wordings of the prompt that they stand in
(`distill/wordings.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from w2sdefense.config import (
    AdapterConfig,
    DecoyConfig,
    DistillConfig,
    ScanTrainingConfig,
    TaskName,
    TrainingConfig,
    WordingConfig,
)
from w2sdefense.data.types import Dataset
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need, PhaseProgress

if TYPE_CHECKING:
    from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class W2SDefense(Defense):
    """Unlearns a backdoor under the guidance of a clean teacher.

    Attributes:
        distill: Weights of the three losses, temperature, alignment and feature scale.
        decoys: Backdoors of our own that are planted and unlearned (not in the paper); 0 per label
            leaves them out.
        scan: The search for triggers (not in the paper), and how many of the clean texts
            get one; rate 0 leaves it out.
        wordings: Other wordings of a prompt (not in the paper); rate 0 leaves it as it is.
        adapter: The adapter's settings.
        training: Optimization settings of the student.
    """

    distill: DistillConfig = field(default_factory=DistillConfig)
    decoys: DecoyConfig = field(default_factory=DecoyConfig)
    scan: ScanTrainingConfig = field(default_factory=ScanTrainingConfig)
    wordings: WordingConfig = field(default_factory=WordingConfig)
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

        unlearning = Unlearning(self, victim, folder, resume, progress)
        return unlearning.train(unlearning.prepare(data, teacher, folder))

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
        unlearning = Unlearning(self, victim, kit.folder, kit.resume, kit.progress)
        prepared = unlearning.prepare(kit.data, teacher, kit.teacher_folder)
        # The student needs the memory.
        del teacher
        return unlearning.train(prepared)
