"""Trains a student through a PEFT adapter, with or without a teacher's targets.

Without targets it is plain PEFT fine-tuning with cross entropy, the baseline; with them it is
W2SDefense. Both run the same code, so that a difference between them is the loss and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from transformers import set_seed

from w2sdefense.config import AdapterConfig, DistillConfig, SoftTriggerConfig, TrainingConfig
from w2sdefense.data.checks import require_aligned
from w2sdefense.data.types import TextDataset
from w2sdefense.distill.pieces import base_to_reopen, in_pieces, refuse_prompt_encoder, whole_again
from w2sdefense.distill.targets import SplitTargets
from w2sdefense.distill.trainer import W2STrainer, with_targets
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.positions import check_length
from w2sdefense.training.batches import Collator, tokenize
from w2sdefense.training.trainer import (
    ProgressCallback,
    StepProgress,
    accuracy_metric,
    run,
    training_arguments,
)
from w2sdefense.victim import Victim


def train_student(
    victim: Victim,
    data: TextDataset,
    targets: SplitTargets | None,
    *,
    distill: DistillConfig,
    soft: SoftTriggerConfig | None = None,
    adapter: AdapterConfig,
    training: TrainingConfig,
    folder: Path,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> Victim:
    """Train a fresh adapter (and the classification head) on clean data.

    The weights that are kept are those of the epoch (with `training.save_steps`: of the steps) with
    the lowest loss on clean validation data, which with targets is the whole W2SDefense loss.

    Args:
        victim: The student. Its model is taken over: frozen and wrapped, not copied.
        data: Clean data.
        targets: The teacher's output for training and validation rows; None trains on the cross
            entropy alone.
        distill: Weights, temperature, alignment and feature scale.
        soft: Soft triggers; not used without targets.
        adapter: The adapter's settings.
        training: Optimization settings.
        folder: Where checkpoints go.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The trained model, unmerged.

    Raises:
        ConfigError: The adapter does not fit, or its virtual tokens find no positions; or models
            are cut (FSDP, DeepSpeed), and this one cannot be opened again from its folder.
        DataError: The labels of the data are not in the model's order.
    """
    require_aligned(data, victim.label_names)
    refuse_prompt_encoder(adapter)
    base = base_to_reopen(victim) if in_pieces() else None
    # The adapter's own weights are random, so the seed comes before it.
    set_seed(training.seed)
    precision = str(victim.model.dtype).removeprefix("torch.")
    model = attach_adapter(victim.model, adapter)
    check_length(model, victim.max_length)
    rows = [
        tokenize(examples, victim.tokenizer, victim.max_length)
        for examples in (data.train, data.validation)
    ]
    if targets is not None:
        rows = [
            with_targets(split, said)
            for split, said in zip(rows, (targets.train, targets.validation), strict=True)
        ]
    trainer = W2STrainer(
        distill=distill,
        soft=soft if targets is not None else None,
        model=model.train(),
        args=training_arguments(training, folder, keep="best", precision=precision),
        train_dataset=rows[0],
        eval_dataset=rows[1],
        data_collator=Collator(victim.tokenizer, takes_positions(model)),
        compute_metrics=accuracy_metric,
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    history = run(trainer, resume=resume)
    if base is None:
        student = Victim(model.eval(), victim.tokenizer, victim.label_names, victim.max_length)
    else:
        student = whole_again(trainer, victim, base, folder)
    student.history = history
    return student
