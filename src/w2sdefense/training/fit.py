"""The single training routine: resumable, and keeps either the best or the last weights."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from w2sdefense.config import TrainingConfig
from w2sdefense.io import read_json, readable
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.tokenizer import check_length, takes_positions
from w2sdefense.tasks.base import Collator, Output, Row, Task
from w2sdefense.training.trainer import (
    Batch,
    Forward,
    Loss,
    ProgressCallback,
    StageTrainer,
    StepProgress,
    accuracy_metric,
    cross_entropy,
)

CHECKPOINTS = "training"
"""Subfolder of a run for the Trainer's checkpoints and a tracker's logs."""


def fit(
    model: nn.Module,
    collate: Collator,
    forward: Forward,
    rows: Sequence[Row],
    validation: Sequence[Row] | None,
    *,
    training: TrainingConfig,
    folder: Path,
    loss: Loss = cross_entropy,
    optimizer: torch.optim.Optimizer | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> StageTrainer:
    """Train a model in place; it ends in evaluation mode.

    The checkpoints stay until `remove_checkpoints`, because a run can also be interrupted while it
    uses the trained weights.

    Args:
        model: The model; parameters that do not require gradients do not change.
        collate: Makes batches of rows.
        forward: Runs the model on a batch; `task_forward` for a model that does a task.
        rows: Training rows.
        validation: Rows whose loss selects the epoch (with `training.save_steps`: the evaluated
            step) whose weights are kept; None keeps the last weights.
        training: Optimization settings.
        folder: Folder of the run; checkpoints go below it.
        loss: The loss to minimize.
        optimizer: Default: AdamW with one learning rate.
        resume: Continue from a checkpoint in the folder if there is one. If False, remove the
            checkpoints of an earlier run.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The trainer; `trainer.state.log_history` has a dict per point with `step` and `epoch`.

    Raises:
        ConfigError: The model has no positions for the longest row.
    """
    check_length(model, max(len(row["input_ids"]) for row in [*rows, *(validation or ())]))
    keep: Literal["best", "last"] = "last" if validation is None else "best"
    precision = str(getattr(model, "dtype", torch.float32)).removeprefix("torch.")
    labelled = isinstance(rows[0]["labels"], int)
    trainer = StageTrainer(
        forward=forward,
        loss=loss,
        model=model.train(),
        args=training_arguments(training, folder, keep=keep, precision=precision),
        train_dataset=rows,
        eval_dataset=validation,
        data_collator=collate,
        compute_metrics=accuracy_metric if labelled else None,
        optimizers=(optimizer, None),
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    # `ProgressCallback` shows the losses, and the record stores them.
    trainer.remove_callback(PrinterCallback)
    checkpoints = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        # The Trainer would count incomplete checkpoints when it decides which ones to keep.
        remove_in(checkpoints, keep_whole=resume)
    checkpoint = last_whole_checkpoint(checkpoints) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Otherwise the caller could remove the best checkpoint while another process reads it.
    trainer.accelerator.wait_for_everyone()
    model.eval()
    return trainer


def task_forward(task: Task, model: nn.Module) -> Forward:
    """The forward pass of a task's model in training: `Task.output` with its own feature tap."""
    # Created once: finding the position that an architecture reads costs as much as a few layers.
    tap = FeatureTap(model)

    def forward(wrapped: nn.Module, batch: Batch) -> Output:
        with tap:
            return task.output(wrapped, tap, batch)

    return forward


def task_collator(task: Task, model: Any) -> Collator:
    """The collator for a model that does a task."""
    return Collator(task.tokenizer, takes_positions(model))


def training_arguments(
    config: TrainingConfig,
    folder: Path,
    *,
    keep: Literal["best", "last"],
    precision: str = "float32",
) -> TrainingArguments:
    """Trainer arguments of a run, which works in `training/` below its folder.

    Args:
        config: Optimization settings.
        folder: Folder of the run.
        keep: `best` keeps the weights with the lowest loss on clean validation data, `last` those
            of the last step. The loss decides rather than the accuracy, because accuracy on a few
            hundred texts cannot distinguish epochs and ignores how well features match the teacher.
        precision: Type of the weights; half precision turns on mixed precision.
    """
    strategy = "epoch" if keep == "best" else "no"
    if config.save_steps is not None:
        strategy = "steps"
    arguments = TrainingArguments(
        # Absolute, because a checkpoint stores the path of the best one.
        output_dir=str((folder / CHECKPOINTS).absolute()),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=2 * config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_ratio,  # a value below 1 is a share of the steps
        weight_decay=config.weight_decay,
        gradient_accumulation_steps=config.gradient_accumulation,
        activation_checkpointing=config.gradient_checkpointing,
        bf16=precision == "bfloat16",
        fp16=precision == "float16",
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_steps=10,
        logging_nan_inf_filter=False,
        save_strategy=strategy,
        save_steps=config.save_steps or 500,
        save_total_limit=1,
        eval_strategy=strategy if keep == "best" else "no",
        eval_steps=config.save_steps,
        load_best_model_at_end=keep == "best",
        metric_for_best_model="loss" if keep == "best" else None,
        report_to=config.report_to,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    # A single process with many GPUs would use DataParallel, whose replicas the distillation hooks
    # cannot tell apart. Use torchrun for many GPUs.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run whose results are written."""
    remove_in(folder / CHECKPOINTS)
    with contextlib.suppress(OSError):  # the folder holds a tracker's logs, or does not exist
        (folder / CHECKPOINTS).rmdir()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint: `trainer_state.json`, written last, is readable. Or None."""
    found = sorted(
        folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rsplit("-", 1)[1])
    )
    return next((path for path in reversed(found) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    return readable(lambda: read_json(checkpoint / "trainer_state.json")) is not None


def remove_in(folder: Path, *, keep_whole: bool = False) -> None:
    """Remove all checkpoints in a folder, or only the incomplete ones."""
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (keep_whole and _is_whole(path)):
            shutil.rmtree(path, ignore_errors=True)
