"""Fine-tuning: all parameters on clean data, the plainest way to forget.

Unlike PEFT it moves every weight, the embedding of a trigger word included. It costs the memory of
the gradients and of AdamW's two moments for the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

from w2sdefense.config import FullTrainingConfig, TaskName, TrainingConfig
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need

if TYPE_CHECKING:
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class FineTuning(Defense):
    """Trains all parameters; the epoch with the lowest loss on clean validation data is kept.

    Attributes:
        training: Optimization settings but for the learning rate.
        full: The learning rate for all parameters.
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)
    full: FullTrainingConfig = field(default_factory=FullTrainingConfig)

    name: ClassVar[str] = "finetune"
    title: ClassVar[str] = "Fine-tuning"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.MODEL
    tasks: ClassVar[tuple[TaskName, ...]] = get_args(TaskName)

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Train the victim in place."""
        from w2sdefense.victim import fine_tune

        fine_tune(
            victim,
            kit.data.train,
            self.full.applied_to(self.training),
            kit.folder,
            validation=kit.data.validation,
            resume=kit.resume,
            progress=kit.progress_of("fine-tuning"),
        )
        return victim
