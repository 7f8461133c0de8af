"""The interface of a task: what a model is asked, what it answers, and how answers are scored.

Training, distillation, attacks and evaluation use tasks only through this interface, so that they
need not distinguish labels from texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn

from w2sdefense.config import GenerationConfig, StudentConfig
from w2sdefense.data.types import REFUSED, Answer, Example
from w2sdefense.models.checkpoint import Checkpoint
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.tokenizer import Tokenizer, pad

IGNORED = -100
"""Label of a token that does not belong to an answer; the cross entropy ignores this value."""

Row = dict[str, Any]
"""One tokenized example: `input_ids`, `labels`, and further tensors that the loss needs."""


def model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of a batch that a model reads; the others are for the loss."""
    return {n: batch[n] for n in ("input_ids", "attention_mask", "position_ids") if n in batch}


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to one text."""

    answer: Answer  # index of a label, a text, or `REFUSED`
    # index of the character at which the text was cut to the model's limit; None if it was not cut
    cut_at: int | None
    # softmax over the labels, (C,); empty where answers are texts
    probabilities: tuple[float, ...] = ()
    # input of the classification head, (d,) in float32 on the CPU; None where answers are texts
    feature: Tensor | None = None
    finished: bool = True  # False if the token limit cut the answer off
    read: str | None = None  # the text that the model read, if an input defense changed it
    defense_seconds: float = 0.0  # time that input defenses spent on this text, in seconds


@dataclass(frozen=True)
class Output:
    """A model's output for the N rows of a loss: texts, or answer tokens."""

    logits: Tensor  # (N, C) in float32; C labels, or tokens of the vocabulary
    features: Tensor  # final hidden states from which the logits are computed, (N, d) in float32
    labels: Tensor  # the right answers, (N,)
    token_states: Tensor  # final hidden states at every position of the batch, (B, L, d)


class Predictor(Protocol):
    """Anything that answers texts: a model, or a model behind an input defense."""

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` receives the number of newly answered texts."""
        ...


@dataclass(frozen=True)
class Opening:
    """How to open a model for a task."""

    checkpoint: Checkpoint  # the model, or an adapter on its base
    config: StudentConfig  # precision and maximum text length
    generation: GenerationConfig  # prompt and maximum answer length for text answers
    label_names: tuple[str, ...] | None = None  # used if the checkpoint has only placeholders
    fresh_head: bool = False  # whether a checkpoint without a head gets a new one


class Task(Protocol):
    """A task: how a model is asked, and how its answers are scored."""

    name: ClassVar[str]  # name of the task, as in `--task`
    metric: ClassVar[str]  # the main score of an answer: a key of `scores`
    metric_name: ClassVar[str]
    """Name of the main score in tables and sentences; "accuracy" goes into the column CA."""
    all_or_nothing: ClassVar[bool]
    """Whether the main score is 0 or 1, so that its mean is a share of answers."""
    text_answers: ClassVar[bool]
    """Whether answers are texts rather than labels, so that a loss is a mean over their tokens."""
    other_answers: ClassVar[str]  # phrase for texts whose right answer is not the target
    default_target: ClassVar[str | None]
    """The target if the user names none; None means that the user must name one."""

    @classmethod
    def load(cls, opening: Opening) -> tuple[Any, Self]:
        """Open a model for the task in evaluation mode; returns the model and the task.

        Raises:
            ModelError: The model cannot do the task.
            UnsafeCheckpointError: The model needs remote code.
            ConfigError: The prompt does not fit, or the model has no positions for it.
        """

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    @property
    def max_length(self) -> int:
        """Maximum length of a text (for text answers: of a prompt) in tokens."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, by index; empty where answers are texts."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for readers of the numbers on how the model is asked."""

    def cut_points(self, texts: Sequence[str]) -> list[int | None]:
        """For every text, the character at which the model stops reading; None if it reads all."""

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenize examples for training: `input_ids` and `labels`."""

    def output(self, model: nn.Module, tap: FeatureTap, batch: Mapping[str, Tensor]) -> Output:
        """Run a model, possibly wrapped (DDP, FSDP), on a batch; its feature tap must be open."""

    def predict(
        self, model: Any, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` receives the number of texts of each batch."""

    def target(self, name: str | None) -> Answer:
        """The attacker's target as an answer; raises a `DataError` if there is no such answer."""

    @staticmethod
    def scores(answer: Answer, reference: Answer) -> dict[str, float]:
        """Scores of one answer, each in [0, 1]."""

    @staticmethod
    def is_target(answer: Answer, target: Answer) -> bool:
        """Whether an answer counts as the target."""


def total_score(task: Task, answers: Sequence[Answer], examples: Sequence[Example]) -> float:
    """Sum of the main scores of some answers; for accuracy, the number of right ones."""
    return sum(
        task.scores(answer, example.answer)[task.metric] if answer != REFUSED else 0.0
        for answer, example in zip(answers, examples, strict=True)
    )


@dataclass(frozen=True)
class Collator:
    """Makes batches of rows: pads tokens to the longest row and stacks all other columns.

    `positions` adds position ids, for models that take them.
    """

    tokenizer: Tokenizer
    positions: bool

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Make a batch from the output of `pad`, (B, L), and all other columns.

        Labels are (B,), or for text answers (B, L): `IGNORED` except for the answer, which ends in
        the last column. A column `clean_input_ids` is padded separately and gets its own
        `clean_attention_mask`.
        """
        batch = pad([row["input_ids"] for row in rows], self.tokenizer, positions=self.positions)
        for column in rows[0].keys() - {"input_ids"}:
            values = [row[column] for row in rows]
            if column == "clean_input_ids":
                padded = pad(values, self.tokenizer, positions=False)
                batch |= {f"clean_{name}": value for name, value in padded.items()}
            elif isinstance(values[0], Tensor):
                batch[column] = torch.stack(values)
            elif isinstance(values[0], int):
                batch[column] = torch.tensor(values)
            else:
                batch[column] = _pad_answers(values, batch["input_ids"])
        return batch


def _pad_answers(values: Sequence[Sequence[int]], like: Tensor) -> Tensor:
    labels = torch.full_like(like, IGNORED)
    for place, value in enumerate(values):
        labels[place, -len(value) :] = torch.tensor(value)
    return labels
