"""Trains a student through a PEFT adapter, with or without a teacher's targets.

Without targets this is the baseline, PEFT fine-tuning with cross entropy; with targets it is
W2SDefense. Both run the same code, so that they differ in the loss only.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from transformers import set_seed

from w2sdefense.config import AdapterConfig, DistillConfig, TrainingConfig
from w2sdefense.data.types import Dataset, Example
from w2sdefense.distill.planted import Planted
from w2sdefense.distill.sharding import (
    base_to_reopen,
    gather_student,
    refuse_prompt_encoder,
    sharded,
)
from w2sdefense.distill.targets import Targets, w2s_objective
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.tokenizer import check_length
from w2sdefense.training.fit import fit, task_collator, task_forward
from w2sdefense.training.trainer import StepProgress, cross_entropy
from w2sdefense.victim import Victim


@dataclass(frozen=True)
class Lesson:
    """The rows of a split that a student learns from.

    Attributes:
        rows: What the student reads and should answer.
        asked: What the teacher reads for each row: the same text, or the text without the decoy.
    """

    rows: Sequence[Example]
    asked: Sequence[Example]

    @classmethod
    def plain(cls, rows: Sequence[Example]) -> Lesson:
        """Student and teacher read the same texts."""
        return cls(rows, rows)


@dataclass(frozen=True)
class Lessons:
    """What a student is trained on, and the validation rows that choose the epoch."""

    train: Lesson
    validation: Lesson

    @classmethod
    def of(cls, data: Dataset) -> Lessons:
        """The lessons of a dataset without decoys."""
        return cls(Lesson.plain(data.train), Lesson.plain(data.validation))


def train_student(
    victim: Victim,
    lessons: Lessons,
    targets: Targets | None,
    *,
    distill: DistillConfig | None = None,
    adapter: AdapterConfig,
    training: TrainingConfig,
    folder: Path,
    planted: Planted | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> Victim:
    """Train a fresh adapter (and the head of a classifier) on clean data.

    Keeps the weights of the epoch (with `training.save_steps`: of the evaluated step) with the
    lowest loss on clean validation data; with targets, that is the whole W2SDefense loss.

    Args:
        victim: The student. Its model is frozen and wrapped in place, not copied.
        lessons: Training and validation rows.
        targets: The teacher's output; None trains with the cross entropy alone.
        distill: Weights, temperature, alignment and feature scale; default settings if None.
        adapter: The adapter's settings.
        training: Optimization settings.
        folder: Where checkpoints go.
        planted: Decoys to put into the model while it is trained.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The trained model, unmerged.

    Raises:
        ConfigError: The adapter does not fit the model, or the model has no positions for its
            virtual tokens; or models are sharded (FSDP, DeepSpeed), and this one cannot be opened
            again from its folder.
    """
    refuse_prompt_encoder(adapter)
    base = base_to_reopen(victim) if sharded() else None
    # Set before the adapter is attached, because its initial weights are random.
    set_seed(training.seed)
    model = attach_adapter(victim.model, adapter)
    task = victim.task
    check_length(model, task.max_length)
    rows, validation = (
        task.rows(lesson.rows)
        if targets is None
        else targets.columns(task.rows(lesson.rows), lesson.asked)
        for lesson in (lessons.train, lessons.validation)
    )
    with planted.put_in(model) if planted else nullcontext():
        trainer = fit(
            model,
            task_collator(task, model),
            task_forward(task, model),
            rows,
            validation,
            training=training,
            folder=folder,
            loss=cross_entropy
            if targets is None
            else w2s_objective(targets.output, distill or DistillConfig()),
            resume=resume,
            progress=progress,
        )
    student = Victim(model, task) if base is None else gather_student(trainer, victim, base, folder)
    student.history = trainer.state.log_history
    return student
