"""One way to run `transformers.Trainer`: rows, batches, arguments, checkpoints, resume.

Used to poison a victim, to fit a teacher and to train a student; what is optimized is decided
there. Mixed precision, gradient accumulation, trackers, `accelerate launch`, FSDP and DeepSpeed are
the Trainer's own.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from w2sdefense.config import TrainingConfig
from w2sdefense.errors import MissingDependencyError
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.positions import check_length
from w2sdefense.models.virtual_tokens import prompt_encoder
from w2sdefense.training.batches import SimilarLengths

StepProgress = Callable[[int, int, dict[str, float]], Any]
"""Called after every optimizer step, and once more after an evaluation, with (step, steps, latest
mean losses); after an evaluation `eval_accuracy` is in their place, until they are logged again."""

CHECKPOINTS = "training"
"""Folder below a run's own that belongs to the Trainer: checkpoints, and the logs of a tracker."""


def this_process() -> PartialState:
    """This process among those of a launcher (torchrun); they meet at the first call.

    Without an accelerator they meet only if it is said that the CPU is meant. Otherwise every
    process takes itself for the only one until its first Trainer says so: each would measure
    everything, and all would write to the same folder.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def check_tracker(config: TrainingConfig) -> None:
    """Insist on the tracker of a run, before the work that it is to follow.

    Raises:
        MissingDependencyError: There is no such tracker, or it is not installed.
    """
    installed = get_available_reporting_integrations()
    if config.report_to not in ("none", "all", *installed):
        raise MissingDependencyError(
            f"The tracker {config.report_to!r} is not installed.",
            f"Install it, or choose with --report-to: {', '.join(['none', *installed])}.",
        )


def training_arguments(
    config: TrainingConfig,
    folder: Path,
    *,
    keep: Literal["best", "last"],
    precision: str = "float32",
) -> TrainingArguments:
    """Arguments of the Trainer for one of our runs.

    Args:
        config: Optimization settings.
        folder: Folder of the run; the Trainer works in `training/` below it.
        keep: `best` ends with the weights whose loss was lowest on clean validation data and needs
            an evaluation set; `last` ends with the last step's. The loss, and not the accuracy:
            on a few hundred texts accuracy cannot tell epochs apart, and it does not see whether
            the features follow the teacher yet.
        precision: Type of the weights; half precision turns on mixed precision.

    Returns:
        Arguments that leave every column to the collator and group rows by length.
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


def accuracy_metric(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the evaluation rows answered with their label, for the choice of the best epoch."""
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


class LengthTrainer(Trainer):
    """A `transformers.Trainer` whose batches hold rows of similar length; see `SimilarLengths`.

    Its checkpoints also hold the prompt encoder of p-tuning: of PEFT's own only what comes out of
    it could be had back, so that neither a resumed training nor the best epoch would be right.
    """

    def _beside(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the Trainer's own: file -> owner of a state_dict."""
        encoder = prompt_encoder(self.model)
        return {} if encoder is None else {"prompt_encoder.safetensors": encoder}

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write what is beside first: `trainer_state.json` must be the last file."""
        if self.args.should_save:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(self._get_output_dir(trial=trial)) / name
            for file, owner in self._beside().items():
                folder.mkdir(parents=True, exist_ok=True)
                save_file(owner.state_dict(), folder / file)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_beside(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_beside(Path(self.state.best_model_checkpoint or ""))

    def _load_beside(self, folder: Path) -> None:
        for file, owner in self._beside().items():
            owner.load_state_dict(load_file(folder / file))

    def _get_train_sampler(self, train_dataset: Any = None) -> SimilarLengths:
        rows = self.train_dataset if train_dataset is None else train_dataset
        order = SimilarLengths(
            [len(row["input_ids"]) for row in rows],
            self.args.train_batch_size * self.args.world_size,
            self.args.data_seed or self.args.seed,
        )
        self.add_callback(EpochOfOrder(order))
        return order


class PartsTrainer(LengthTrainer):
    """A Trainer whose loss has parts that are logged beside it, and reads the model's features."""

    # The loss is a mean over the batch; the Trainer divides it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(self, **trainer: Any) -> None:
        super().__init__(**trainer)
        self._means = LossMeans()

    @cached_property
    def _tap(self) -> FeatureTap:
        # Made once: finding out which position an architecture reads takes as long as a few layers.
        return FeatureTap(self.accelerator.unwrap_model(self.model))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each part since the last point to the Trainer's log."""
        if "loss" in logs:
            logs.update(self._means.take(self.accelerator))
        super().log(logs, start_time)


class EpochOfOrder(TrainerCallback):
    """Tells the order of the rows which epoch begins.

    Accelerate does so too, but does not find the order where several processes go on in the middle
    of an epoch: they would take the order of the first one.
    """

    def __init__(self, order: SimilarLengths) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Tell it."""
        self._order.set_epoch(int(state.epoch or 0))


def run(trainer: Trainer, *, resume: bool) -> list[dict[str, float]]:
    """Train, from the last whole checkpoint if asked.

    The checkpoints stay until `remove_checkpoints`: what a run makes of the trained weights can be
    cut off, too.

    Args:
        trainer: A trainer that was set up completely.
        resume: Continue from a checkpoint in the trainer's folder if there is one; otherwise start
            afresh and remove what an earlier run left there.

    Returns:
        The trainer's log: one dict per point, with `step` and `epoch`.

    Raises:
        ConfigError: The model has no positions for the longest row.
    """
    rows = [*trainer.train_dataset, *(trainer.eval_dataset or ())]
    check_length(trainer.model, max(len(row["input_ids"]) for row in rows))
    folder = Path(trainer.args.output_dir)
    # The losses are shown by our own progress and kept in the record.
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():
        # One that was cut off would count when the Trainer keeps the newest.
        _remove(folder, keep_whole=resume)
    # All our losses are means over the batch. The Trainer takes a model that accepts any keyword
    # for one that divides by the number of items, and would sum over accumulated batches.
    trainer.model_accepts_loss_kwargs = False
    checkpoint = last_whole_checkpoint(folder) if resume else None
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    # Another process may still be reading the best checkpoint when the caller removes it.
    trainer.accelerator.wait_for_everyone()
    history: list[dict[str, float]] = trainer.state.log_history
    return history


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run whose results are written.

    Args:
        folder: Folder of the run, as given to `training_arguments`.
    """
    _remove(folder / CHECKPOINTS)
    with contextlib.suppress(OSError):  # a tracker's logs are there, or nothing at all
        (folder / CHECKPOINTS).rmdir()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None if there is none.

    The Trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut
    off.
    """
    found = sorted(
        folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rsplit("-", 1)[1])
    )
    return next((path for path in reversed(found) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _remove(folder: Path, *, keep_whole: bool = False) -> None:
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (keep_whole and _is_whole(path)):
            shutil.rmtree(path, ignore_errors=True)


class LossMeans:
    """Means of the parts of a loss between two points of the log.

    They are added up on the device; reading them at every step would stall an accelerator.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Count the parts of one batch, each a scalar."""
        for name, part in parts.items():
            value = part.detach()
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._batches += 1

    def take(self, accelerator: Any) -> dict[str, float]:
        """The means over all processes since the last call; empty if nothing was added."""
        means = {
            name: round(accelerator.gather(total / self._batches).mean().item(), 6)
            for name, total in self._sums.items()
        }
        self._sums, self._batches = {}, 0
        return means


class ProgressCallback(TrainerCallback):
    """Tells a function about every optimizer step."""

    def __init__(self, advance: StepProgress) -> None:
        self._advance = advance
        self._losses: dict[str, float] = {}

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        """Remember the latest means of the losses, or the accuracy after an evaluation."""
        shown = {"loss", "ce", "kd", "fa", "eval_accuracy"}
        self._losses = {k: v for k, v in (logs or {}).items() if k in shown}

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Report the step."""
        if state.is_world_process_zero:
            self._advance(state.global_step, state.max_steps, self._losses)

    # An evaluation is reported before the checkpoint that keeps it from being done again.
    on_evaluate = on_step_end
