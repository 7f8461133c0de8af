"""LoRA: plain PEFT fine-tuning on clean data, the baseline that leaves a backdoor alive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, get_args

from w2sdefense.config import AdapterConfig, TaskName, TrainingConfig
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need

if TYPE_CHECKING:
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class LoRA(Defense):
    """Fine-tunes an adapter and the classification head on clean data.

    Attributes:
        adapter: The adapter's settings.
        training: Optimization settings.
    """

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "lora"
    title: ClassVar[str] = "LoRA"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.ADAPTER
    tasks: ClassVar[tuple[TaskName, ...]] = get_args(TaskName)

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Train the adapter; see `train_student`."""
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
