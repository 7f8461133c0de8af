"""Fine-tuning on clean data: of all parameters, or of an adapter only (LoRA).

Training all parameters changes every weight, including the embeddings of trigger words. It needs
memory for the gradients and AdamW's two moments of the whole model. Plain PEFT is the baseline,
which leaves a backdoor active.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from w2sdefense.config import AdapterConfig, FullTrainingConfig, TrainingConfig
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need

if TYPE_CHECKING:
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class FineTuning(Defense):
    """Trains all parameters; the epoch with the lowest loss on clean validation data is kept."""

    training: TrainingConfig = field(default_factory=TrainingConfig)
    full: FullTrainingConfig = field(default_factory=FullTrainingConfig)

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "Fine-tuning"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.MODEL

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Train the victim in place."""
        kit.fine_tune(victim, self.full.applied_to(self.training), "fine-tuning")
        return victim


@dataclass(frozen=True)
class LoRA(Defense):
    """Trains an adapter and the classification head; see `train_student`."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.ADAPTER

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Train the adapter."""
        from w2sdefense.distill.student import Lessons, train_student

        return train_student(
            victim,
            Lessons.of(kit.data),
            None,
            adapter=self.adapter,
            training=self.training,
            folder=kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("student"),
        )
