"""Training on answers: the Trainer for rows of prompt and answer.

Only what predicts an answer's tokens is looked at. Answers stand at the end of left-padded rows, so
the model is asked for the logits of the last columns only, which for a vocabulary of 150,000 is
most of the memory. The loss is the cross entropy, or what an `AnswerLoss` makes of the batch
(W2SDefense: `distill/writer_student.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, nn

from w2sdefense.tasks.prompt import IGNORED
from w2sdefense.training.trainer import PartsTrainer


@dataclass(frozen=True)
class AnswerOutput:
    """What a model says where it predicts the N answer tokens of a batch.

    Attributes:
        logits: (N, V) in float32.
        features: Final hidden states at the same positions, (N, d) in float32.
    """

    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class AnswerPlaces:
    """Where the answers of a batch are predicted.

    Attributes:
        keep: How many columns, counted from the end, predict a token of some answer.
        mask: Which of these predict one of their row's, (B, keep).
        labels: The tokens that they should predict, (N,).
    """

    keep: int
    mask: Tensor
    labels: Tensor

    def pick(self, values: Tensor) -> Tensor:
        """The values at these places: (B, at least keep, d) to (N, d), in float32."""
        # The last column predicts nothing: what follows it is in no row.
        return values[:, -self.keep - 1 : -1][self.mask].float()


class AnswerLoss(Protocol):
    """What is made of the student's output for a batch."""

    def __call__(
        self, student: AnswerOutput, inputs: Mapping[str, Tensor], places: AnswerPlaces
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The loss, and the parts of it that are to be logged, all scalars.

        Args:
            student: The student's output, attached to the graph.
            inputs: The batch as the model got it.
            places: Where its answers are.
        """
        ...


def answer_places(labels: Tensor) -> AnswerPlaces:
    """Find the answers of a batch of left-padded rows.

    Args:
        labels: (B, L), `IGNORED` but for the answers. A token is predicted one column before it.
    """
    shifted = labels[:, 1:]
    answered = shifted != IGNORED
    columns = answered.any(0).nonzero()
    keep = shifted.shape[1] - int(columns[0]) if len(columns) else 1
    mask = answered[:, -keep:]
    return AnswerPlaces(keep, mask, shifted[:, -keep:][mask])


class AnswerTrainer(PartsTrainer):
    """Trains a model on the answers of its rows.

    Args:
        loss: What is optimized; None is the mean cross entropy over all answer tokens of a batch.
        **trainer: Arguments of `transformers.Trainer`. The model's forward pass must take
            `logits_to_keep`, as all causal language models of transformers do.
    """

    def __init__(self, *, loss: AnswerLoss | None = None, **trainer: Any) -> None:
        super().__init__(**trainer)
        self._loss = loss

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of one batch."""
        inputs = dict(inputs)
        places = answer_places(inputs.pop("labels"))
        keep = places.keep + 1
        if self._loss is None:
            logits = model(**inputs, logits_to_keep=keep).logits
            loss = F.cross_entropy(places.pick(logits), places.labels)
        else:
            with self._tap as tap:
                logits = model(**inputs, logits_to_keep=keep).logits
                student = AnswerOutput(places.pick(logits), places.pick(tap.token_states()))
            loss, parts = self._loss(student, inputs, places)
            if model.training:
                self._means.add(parts)
        # Evaluation needs the loss only: the logits of a split would fill the memory.
        return (loss, {}) if return_outputs else loss
