"""The Trainer of all stages: batches of similar length, a forward pass, a loss with logged parts.

Mixed precision, gradient accumulation, trackers, `accelerate launch`, FSDP and DeepSpeed are left
to transformers and accelerate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import EvalPrediction, Trainer, TrainerCallback
from transformers.integrations import get_available_reporting_integrations
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from w2sdefense.config import TrainingConfig
from w2sdefense.errors import MissingDependencyError
from w2sdefense.models.adapters import prompt_encoder
from w2sdefense.tasks.base import Output

Batch = Mapping[str, Tensor]

Forward = Callable[[nn.Module, Batch], Output]  # runs a model on a batch
Loss = Callable[[Output, Batch], tuple[Tensor, Mapping[str, Tensor]]]
"""Returns the loss of a batch and its parts for the log, all scalars."""

StepProgress = Callable[[int, int, dict[str, float]], Any]
"""Called with (step, steps, latest mean losses) after every optimizer step and after an evaluation.
After an evaluation, `eval_accuracy` replaces the losses until they are logged again."""


def this_process() -> PartialState:
    """The state of this process among those of a launcher (torchrun); the first call connects them.

    Without an accelerator, processes connect only if `cpu=True`. Otherwise each process would act
    as the only one until it creates a Trainer: each would measure everything, and all would write
    to the same folder.
    """
    return PartialState(cpu=not torch.cuda.is_available())


def check_tracker(config: TrainingConfig) -> None:
    """Raise a `MissingDependencyError` if the tracker of a run is not installed."""
    installed = get_available_reporting_integrations()
    if config.report_to not in ("none", "all", *installed):
        raise MissingDependencyError(
            f"The tracker {config.report_to!r} is not installed.",
            f"Install it, or choose with --report-to: {', '.join(['none', *installed])}.",
        )


def cross_entropy(output: Output, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The mean cross entropy with the labels, the loss of plain fine-tuning."""
    return F.cross_entropy(output.logits, output.labels), {}


def accuracy_metric(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the evaluation rows answered with their label, for the log."""
    logits = prediction.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}


PROMPT_ENCODER = "prompt_encoder.safetensors"


class StageTrainer(Trainer):
    """A `transformers.Trainer` for one of our stages.

    Its batches hold rows of similar length (`SimilarLengths`). Its checkpoints also hold the prompt
    encoder of p-tuning: PEFT saves only the encoder's output, so training could not resume.
    """

    # The loss is a mean over the batch, so the Trainer must divide it by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(self, *, forward: Forward, loss: Loss = cross_entropy, **trainer: Any) -> None:
        super().__init__(**trainer)
        self._forward = forward
        self._loss = loss
        self._means = LossMeans()
        # The Trainer assumes that a model which accepts any keyword divides its loss by the number
        # of items, and would sum over accumulated batches.
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of one batch."""
        output = self._forward(model, inputs)
        loss, parts = self._loss(output, inputs)
        if model.training and parts:
            self._means.add(parts)
        return (loss, {"logits": output.logits}) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the mean of each loss part since the last entry to the Trainer's log."""
        if "loss" in logs:
            logs.update(self._means.take(self.accelerator))
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the prompt encoder first: `trainer_state.json` must be the last file."""
        encoder = prompt_encoder(self.model)
        if self.args.should_save and encoder is not None:
            name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            folder = Path(self._get_output_dir(trial=trial)) / name
            folder.mkdir(parents=True, exist_ok=True)
            save_file(encoder.state_dict(), folder / PROMPT_ENCODER)
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_prompt_encoder(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_prompt_encoder(Path(self.state.best_model_checkpoint or ""))

    def _load_prompt_encoder(self, folder: Path) -> None:
        encoder = prompt_encoder(self.model)
        if encoder is not None:
            encoder.load_state_dict(load_file(folder / PROMPT_ENCODER))

    def _get_train_sampler(self, train_dataset: Any = None) -> SimilarLengths:
        rows = self.train_dataset if train_dataset is None else train_dataset
        order = SimilarLengths(
            [len(row["input_ids"]) for row in rows],
            self.args.train_batch_size * self.args.world_size,
            self.args.data_seed or self.args.seed,
        )
        self.add_callback(EpochOfOrder(order))
        return order


class SimilarLengths(Sampler[int]):
    """A row order in which every batch (over all processes) holds rows of similar length.

    All rows of the epoch are sorted by length and divided into batches, which are then shuffled.
    The Trainer's own `group_by_length` sorts within chunks of at most a quarter of the rows. On 256
    to 1,000 review sentences in batches of 16, that leaves 24 % to 8 % of the tokens as padding;
    this order leaves 10 % to 4 %. Before sorting, lengths are increased at random by up to a tenth,
    and the incomplete batch is taken from a random position, so that epochs have other batches.

    The order depends only on `seed` and the epoch, so processes agree on it and a resumed run
    continues it. The first epoch starts with the longest rows, so that too large a batch fails at
    once.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = torch.tensor(lengths, dtype=torch.float64)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; call this before each pass over the rows."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + 1_000_003 * self._epoch)
        noise = torch.rand(len(self), generator=generator, dtype=torch.float64)
        order = (self._lengths * (1.0 + 0.1 * noise)).argsort(descending=True)
        whole, rest = divmod(len(self), self._batch_size)
        cut = int(torch.randint(whole + 1, (), generator=generator)) * self._batch_size
        incomplete = order[cut : cut + rest]
        batches = torch.cat([order[:cut], order[cut + rest :]]).view(whole, self._batch_size)
        shuffled = torch.randperm(whole, generator=generator)
        if self._epoch == 0 and whole:
            first = int((shuffled == 0).nonzero())
            shuffled[[0, first]] = shuffled[[first, 0]]
        # A data loader divides the order into batches, so only the end can be incomplete.
        yield from torch.cat([batches[shuffled].flatten(), incomplete]).tolist()


class EpochOfOrder(TrainerCallback):
    """Passes the epoch to the order of the rows.

    Accelerate does this too, but cannot find the sampler when several processes resume in the
    middle of an epoch, which would then use the order of the first epoch.
    """

    def __init__(self, order: SimilarLengths) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Set the epoch."""
        self._order.set_epoch(int(state.epoch or 0))


class LossMeans:
    """Means of the parts of a loss between two log entries, accumulated on the device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._batches = 0

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add the parts of one batch, each a scalar."""
        for name, part in parts.items():
            value = part.detach()
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._batches += 1

    def take(self, accelerator: Any) -> dict[str, float]:
        """Return the means over all processes since the last call; empty if nothing was added."""
        means = {
            name: round(accelerator.gather(total / self._batches).mean().item(), 6)
            for name, total in self._sums.items()
        }
        self._sums, self._batches = {}, 0
        return means


class ProgressCallback(TrainerCallback):
    """Reports every optimizer step and evaluation to a function."""

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

    # Report an evaluation when it is done; its checkpoint is written afterwards.
    on_evaluate = on_step_end
