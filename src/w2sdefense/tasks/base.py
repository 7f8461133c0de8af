"""The contract of a task: what a model is asked, what it answers, and how an answer is scored.

Training, distillation, attacks and evaluation see tasks through this contract only, so that a label
and a text are the same to them.
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
"""Label of a token that is no part of an answer; the value that the cross entropy passes over."""

Row = dict[str, Any]
"""One tokenized example: `input_ids`, `labels`, and whatever tensors the loss needs beside them."""


def model_inputs(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The columns of a batch that a model reads; the others are for the loss."""
    return {n: batch[n] for n in ("input_ids", "attention_mask", "position_ids") if n in batch}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answers to one text."""

    answer: Answer  # index of a label, a text, or `REFUSED`
    # character at which the text was cut because it is longer than the model's limit; None if all
    # of it was read
    cut_at: int | None
    # softmax over the labels, (C,); empty where answers are texts
    probabilities: tuple[float, ...] = ()
    # what the classifier read, (d,) in float32 on the CPU; None where answers are texts
    feature: Tensor | None = None
    finished: bool = True  # whether the model ended its answer, rather than the limit of tokens
    read: str | None = None  # the text that the model read, where an input defense changed it
    defense_seconds: float = 0.0  # time that input defenses spent on this text, in seconds


@dataclass(frozen=True)
class Output:
    """What a model says for the N rows that a loss is a mean over: texts, or tokens of answers."""

    logits: Tensor  # (N, C) in float32; C labels, or tokens of the vocabulary
    features: Tensor  # the final hidden states that these logits are read from, (N, d) in float32
    labels: Tensor  # what should be answered, (N,)
    token_states: Tensor  # final hidden states at every position of the batch, (B, L, d)


class Predictor(Protocol):
    """Anything that answers texts: a model, or a model behind an input defense."""

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` is told how many more were done."""
        ...


@dataclass(frozen=True)
class Opening:
    """How a model is opened for a task."""

    checkpoint: Checkpoint  # the model, or an adapter on its base
    config: StudentConfig  # in which precision, and its longest text
    generation: GenerationConfig  # how it is asked for text, and how long its answers may be
    label_names: tuple[str, ...] | None = None  # where the checkpoint has only placeholders
    fresh_head: bool = False  # whether a checkpoint without a head gets a new one


class Task(Protocol):
    """What a model is asked for."""

    name: ClassVar[str]  # name of the task, as in `--task`
    metric: ClassVar[str]  # the score that stands for the quality of an answer: a key of `scores`
    metric_name: ClassVar[str]
    """What it is called in tables and sentences; "accuracy" stands in the column CA."""
    all_or_nothing: ClassVar[bool]
    """Whether that score is 0 or 1, so that its mean is a share of answers."""
    text_answers: ClassVar[bool]
    """Whether answers are texts rather than labels, so that a loss is a mean over their tokens."""
    other_answers: ClassVar[str]  # how to say of texts that their right answer is not the target
    default_target: ClassVar[str | None]
    """What an attacker wants if nobody says; None has to be said."""

    @classmethod
    def load(cls, opening: Opening) -> tuple[Any, Self]:
        """Open a model that does the task, in evaluation mode; with it the task, and its tokenizer.

        Raises:
            ModelError: It is no model for the task.
            UnsafeCheckpointError: It needs remote code.
            ConfigError: The prompt does not fit, or the model has no positions for it.
        """

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""

    @property
    def max_length(self) -> int:
        """Longest text (for text answers: longest prompt) in tokens."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, by index; none where answers are texts."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know about how the model is asked."""

    def cut_points(self, texts: Sequence[str]) -> list[int | None]:
        """For every text the character at which the model stops reading it; None reads it all."""

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenize examples for training: `input_ids` and `labels`."""

    def output(self, model: nn.Module, tap: FeatureTap, batch: Mapping[str, Tensor]) -> Output:
        """Run a model, possibly wrapped (DDP, FSDP), with its open tap, on a batch."""

    def predict(
        self, model: Any, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` is told how many texts each batch had."""

    def target(self, name: str | None) -> Answer:
        """What an attacker wants, as an answer; a `DataError` if there is no such answer."""

    @staticmethod
    def scores(answer: Answer, reference: Answer) -> dict[str, float]:
        """Scores of one answer, each in [0, 1]."""

    @staticmethod
    def is_target(answer: Answer, target: Answer) -> bool:
        """Whether the target is what comes out."""


def total_score(task: Task, answers: Sequence[Answer], examples: Sequence[Example]) -> float:
    """Sum of the main score of some answers; for accuracy the number of right ones."""
    return sum(
        task.scores(answer, example.answer)[task.metric] if answer != REFUSED else 0.0
        for answer, example in zip(answers, examples, strict=True)
    )


@dataclass(frozen=True)
class Collator:
    """Pads tokens to the longest row, with `positions` if the model takes them; stacks the rest."""

    tokenizer: Tokenizer
    positions: bool

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Batch of what `pad` gives (B, L) and of all other columns.

        Labels are (B,), or for text answers (B, L) and `IGNORED` but for the answer, which ends in
        the last column. A column `clean_input_ids` is padded by itself, with `clean_attention_mask`
        beside it.
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
