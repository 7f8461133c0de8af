"""Fine-tuning: all parameters on clean data, the plainest way to forget.

Unlike PEFT it moves every weight, the embedding of a trigger word included. It costs the memory of
the gradients and of AdamW's two moments for the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from w2sdefense.config import DefendRun, TrainingConfig
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.victim import Victim, fine_tune


@dataclass(frozen=True)
class FineTuning:
    """Trains all parameters; the epoch with the lowest loss on clean validation data is kept.

    Attributes:
        training: Optimization settings.
    """

    training: TrainingConfig = field(default_factory=lambda: DefendRun().full_training())

    name: ClassVar[str] = "finetune"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_DATA})
    leaves: ClassVar[Leaves] = Leaves.MODEL

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run."""
        return cls(run.full_training())

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Train the victim in place."""
        fine_tune(
            victim,
            kit.data.train,
            self.training,
            kit.folder,
            validation=kit.data.validation,
            resume=kit.resume,
            progress=kit.progress_of("fine-tuning"),
        )
        return victim
