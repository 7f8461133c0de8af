"""`W2STrainer`: a `transformers.Trainer` with the W2SDefense loss.

The teacher's output comes with the batch, from a cache; the student's feature is caught while it
runs. Resume, mixed precision, gradient accumulation, trackers and distributed training are the
Trainer's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from w2sdefense.config import DistillConfig, SoftTriggerConfig
from w2sdefense.distill.losses import StudentOutput, TeacherOutput, w2s_loss
from w2sdefense.distill.soft_triggers import SoftTriggers, TriggeredBatch
from w2sdefense.distill.targets import TeacherTargets
from w2sdefense.models.padding import positions_of
from w2sdefense.training.batches import Row
from w2sdefense.training.trainer import PartsTrainer

TEACHER_LOGITS = "teacher_logits"
TEACHER_FEATURE = "teacher_feature"
SOFT_TRIGGERS = "soft_triggers.safetensors"


class W2STrainer(PartsTrainer):
    """Trains a student classifier with the W2SDefense loss and logs each of its parts.

    Rows without teacher columns (plain fine-tuning) get the cross entropy alone. Evaluation uses
    the same loss on clean text, without soft triggers.

    Args:
        distill: Weights, temperature, alignment and feature scale.
        soft: Soft triggers; None, or 0 per label, trains on the clean text alone, as in the paper.
        **trainer: Arguments of `transformers.Trainer`.
    """

    def __init__(
        self, *, distill: DistillConfig, soft: SoftTriggerConfig | None = None, **trainer: Any
    ) -> None:
        super().__init__(**trainer)
        self._distill = distill
        self._soft = SoftTriggers(self.model, soft) if soft and soft.per_label else None
        self._triggered: TriggeredBatch | None = None

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of one batch; see `w2s_loss`."""
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        teacher_logits = inputs.pop(TEACHER_LOGITS, None)
        teacher_feature = inputs.pop(TEACHER_FEATURE, None)
        if teacher_logits is None or teacher_feature is None:
            output = model(**inputs)
            loss = nn.functional.cross_entropy(output.logits.float(), labels)
            return (loss, output) if return_outputs else loss
        with self._soft_trigger(inputs, labels, model.training), self._tap as tap:
            output = model(**inputs)
            student = StudentOutput(output.logits.float(), tap.feature(), tap.token_states())
        teacher = TeacherOutput(teacher_logits, teacher_feature)
        parts = w2s_loss(student, teacher, labels, self._distill)
        if model.training:
            self._means.add({"ce": parts.ce, "kd": parts.kd, "fa": parts.fa})
        return (parts.total, output) if return_outputs else parts.total

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], *rest: Any) -> Tensor:
        """One forward and backward pass; its gradient also moves the soft trigger in it."""
        loss: Tensor = super().training_step(model, inputs, *rest)
        triggered, self._triggered = self._triggered, None
        if self._soft and triggered is not None and triggered.trigger.grad is not None:
            gradient = self.accelerator.reduce(triggered.trigger.grad, reduction="mean")
            self._soft.ascend(triggered.index, gradient)
        return loss

    @contextmanager
    def _soft_trigger(
        self, inputs: dict[str, Tensor], labels: Tensor, training: bool
    ) -> Iterator[None]:
        """Put a soft trigger into a training batch, in place, for one forward pass."""
        if self._soft is None or not training:
            yield
            return
        triggered = self._soft.insert(inputs["input_ids"], inputs["attention_mask"], labels)
        inputs["input_ids"] = triggered.input_ids
        inputs["attention_mask"] = triggered.attention_mask
        if "position_ids" in inputs:
            inputs["position_ids"] = positions_of(triggered.attention_mask)
        self._triggered = triggered
        with self._soft.embedded(triggered):
            yield

    def _beside(self) -> dict[str, Any]:
        soft = {} if self._soft is None else {SOFT_TRIGGERS: self._soft}
        return {**super()._beside(), **soft}


def with_targets(rows: list[Row], targets: TeacherTargets) -> list[Row]:
    """Tokenized rows, each with what the teacher said of it.

    Args:
        rows: Rows with `input_ids` and `labels`.
        targets: The teacher's output, in the order of the rows.

    Returns:
        The rows with `teacher_logits` (C,) and `teacher_feature` (d_s,) beside.
    """
    return [
        {**row, TEACHER_LOGITS: logits, TEACHER_FEATURE: feature}
        for row, logits, feature in zip(rows, targets.logits, targets.features, strict=True)
    ]
