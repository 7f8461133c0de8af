"""LoRA: plain PEFT fine-tuning on clean data, the baseline that leaves a backdoor alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

from w2sdefense.config import AdapterConfig, DefendRun, TrainingConfig
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.distill.student import Lessons, train_student
from w2sdefense.victim import Victim


@dataclass(frozen=True)
class LoRA:
    """Fine-tunes an adapter and the classification head on clean data.

    Attributes:
        adapter: The adapter's settings.
        training: Optimization settings.
    """

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "lora"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_DATA})
    leaves: ClassVar[Leaves] = Leaves.ADAPTER

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run."""
        return cls(adapter=run.adapter, training=run.training)

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Train the adapter; see `train_student`."""
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
