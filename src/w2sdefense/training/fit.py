"""The one way to train: rows and a model in, the best or the last weights out, resumable."""

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
"""Folder below a run's own that belongs to the Trainer: checkpoints, and the logs of a tracker."""


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

    The checkpoints stay until `remove_checkpoints`: what a run makes of the trained weights can be
    cut off, too.

    Args:
        model: What is trained; parameters that do not require gradients stay.
        collate: Makes batches of rows.
        forward: Runs the model on a batch; `task_forward` for a model that does a task.
        rows: Training rows.
        validation: Rows whose loss chooses the epoch (with `training.save_steps`: the steps) that
            is kept; None keeps the last.
        training: Optimization settings.
        folder: Folder of the run; checkpoints go below it.
        loss: What is optimized.
        optimizer: Default: AdamW with one rate.
        resume: Continue from a checkpoint in the folder if there is one; otherwise start afresh and
            remove what an earlier run left there.
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
    # The losses are shown by our own progress and kept in the record.
    trainer.remove_callback(PrinterCallback)
    checkpoints = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        # One that was cut off would count when the Trainer keeps the newest.
        remove_in(checkpoints, keep_whole=resume)
    checkpoint = last_whole_checkpoint(checkpoints) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Another process may still be reading the best checkpoint when the caller removes it.
    trainer.accelerator.wait_for_everyone()
    model.eval()
    return trainer


def task_forward(task: Task, model: nn.Module) -> Forward:
    """How a model that does a task is run in training: `Task.output` with a tap of its own."""
    # Made once: finding out which position an architecture reads takes as long as a few layers.
    tap = FeatureTap(model)

    def forward(wrapped: nn.Module, batch: Batch) -> Output:
        with tap:
            return task.output(wrapped, tap, batch)

    return forward


def task_collator(task: Task, model: Any) -> Collator:
    """Makes batches for a model that does a task."""
    return Collator(task.tokenizer, takes_positions(model))


def training_arguments(
    config: TrainingConfig,
    folder: Path,
    *,
    keep: Literal["best", "last"],
    precision: str = "float32",
) -> TrainingArguments:
    """Arguments of the Trainer for one of our runs, which works in `training/` below its folder.

    Args:
        config: Optimization settings.
        folder: Folder of the run.
        keep: `best` ends with the weights whose loss was lowest on clean validation data; `last`
            with the last step's. The loss, and not the accuracy: on a few hundred texts accuracy
            cannot tell epochs apart, and it does not see whether the features follow the teacher.
        precision: Type of the weights; half precision turns on mixed precision.
    """
    by_steps = config.save_steps is not None
    if keep == "best":
        strategy = "steps" if by_steps else "epoch"
    else:
        strategy = "steps" if by_steps else "no"
    arguments = TrainingArguments(
        # Absolute: a checkpoint names the best one by its path.
        output_dir=str((folder / CHECKPOINTS).absolute()),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=2 * config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=config.warmup_ratio,  # below 1 it is a share of the steps
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
    # One process on a machine with many GPUs would be given DataParallel, whose replicas the hooks
    # of the distillation cannot tell apart; many GPUs are used through torchrun.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run whose results are written."""
    remove_in(folder / CHECKPOINTS)
    with contextlib.suppress(OSError):  # a tracker's logs are there, or nothing at all
        (folder / CHECKPOINTS).rmdir()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose `trainer_state.json`, written last, can be read; or None."""
    found = sorted(
        folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rsplit("-", 1)[1])
    )
    return next((path for path in reversed(found) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    return readable(lambda: read_json(checkpoint / "trainer_state.json")) is not None


def remove_in(folder: Path, *, keep_whole: bool = False) -> None:
    """Remove the checkpoints in a folder, or those that were cut off only."""
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (keep_whole and _is_whole(path)):
            shutil.rmtree(path, ignore_errors=True)
