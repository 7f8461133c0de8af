"""Trains a writer through a PEFT adapter on clean pairs, with or without a teacher beside it.

Without one it is plain PEFT fine-tuning with cross entropy on the answers, the baseline; with one
it is W2SDefense for generation. Both run the same code. The output layer stays as it is. Soft
triggers are for classification only: they need labels to ascend to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import set_seed

from w2sdefense.config import AdapterConfig, DistillConfig, TrainingConfig
from w2sdefense.data.types import PairDataset
from w2sdefense.distill.losses import answer_loss
from w2sdefense.distill.writer_teacher import WriterTeacher
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.padding import positions_of, takes_positions
from w2sdefense.models.positions import check_length
from w2sdefense.training.answers import AnswerOutput, AnswerPlaces, AnswerTrainer
from w2sdefense.training.batches import PairCollator, tokenize_pairs
from w2sdefense.training.trainer import ProgressCallback, StepProgress, run, training_arguments
from w2sdefense.writer import Writer


class GuidedLoss:
    """The W2SDefense loss of a batch, which the teacher reads along with the student.

    Args:
        teacher: A fitted teacher of the student's width.
        config: Weights, temperature and feature scale.
    """

    def __init__(self, teacher: WriterTeacher, config: DistillConfig) -> None:
        self._teacher = teacher.eval()
        self._takes_positions = takes_positions(teacher.backbone)
        self._config = config

    def __call__(
        self, student: AnswerOutput, inputs: Mapping[str, Tensor], places: AnswerPlaces
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """See `AnswerLoss`."""
        inputs = dict(inputs)
        if "position_ids" not in inputs and self._takes_positions:
            # The student counts its own behind virtual tokens, which the teacher does not have.
            inputs["position_ids"] = positions_of(inputs["attention_mask"])
        with torch.no_grad():
            said = self._teacher.to(student.logits.device)(**inputs, logits_to_keep=places.keep + 1)
        teacher = AnswerOutput(places.pick(said.logits), places.pick(said.hidden_states))
        parts = answer_loss(student, teacher, places.labels, self._config)
        return parts.total, {"ce": parts.ce, "kd": parts.kd, "fa": parts.fa}


def train_writer(
    writer: Writer,
    data: PairDataset,
    teacher: WriterTeacher | None,
    *,
    distill: DistillConfig,
    adapter: AdapterConfig,
    training: TrainingConfig,
    folder: Path,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> Writer:
    """Train a fresh adapter on clean pairs.

    The weights that are kept are those of the epoch (with `training.save_steps`: of the steps) with
    the lowest loss on clean validation data.

    Args:
        writer: The student. Its model is taken over: frozen and wrapped, not copied.
        data: Clean data.
        teacher: A fitted teacher of the writer's width; None trains on the cross entropy alone.
        distill: Weights, temperature and feature scale.
        adapter: The adapter's settings.
        training: Optimization settings.
        folder: Where checkpoints go.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The trained model, unmerged.

    Raises:
        ConfigError: The adapter does not fit, or its virtual tokens find no positions.
    """
    # The adapter's own weights are random, so the seed comes before it.
    set_seed(training.seed)
    precision = str(writer.model.dtype).removeprefix("torch.")
    model = attach_adapter(writer.model, adapter)
    check_length(model, writer.prompt.max_length, beside=writer.prompt.answer_tokens)
    trainer = AnswerTrainer(
        loss=None if teacher is None else GuidedLoss(teacher, distill),
        model=model.train(),
        args=training_arguments(training, folder, keep="best", precision=precision),
        train_dataset=tokenize_pairs(data.train, writer.prompt),
        eval_dataset=tokenize_pairs(data.validation, writer.prompt),
        data_collator=PairCollator(writer.tokenizer, takes_positions(model)),
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    history = run(trainer, resume=resume)
    student = Writer(model.eval(), writer.prompt)
    student.history = history
    return student
