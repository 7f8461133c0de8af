"""Answers and features of a classifier for raw texts: all that evaluation ever sees of it.

Texts are sorted by length and packed into batches by their number of tokens, so that almost nothing
of a batch is padding; one forward pass gives both the answer and the feature. Generation is not
covered here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from w2sdefense.models.features import FeatureTap
from w2sdefense.models.padding import pad, takes_positions
from w2sdefense.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model answers to one text.

    Attributes:
        label: Index of the answered label, or `REFUSED`.
        probabilities: Softmax over the labels, (C,).
        feature: What the classifier read, (d,) in float32 on the CPU.
        cut_at: Character at which the text was cut because it is longer than the model's limit;
            None if all of it was read.
        read: The text that the model read, where an input defense changed it.
        defense_seconds: Time that input defenses spent on this text, in seconds.
    """

    label: int
    probabilities: tuple[float, ...]
    feature: Tensor
    cut_at: int | None
    read: str | None = None
    defense_seconds: float = 0.0


class Predictor(Protocol):
    """Anything that answers texts: a model, or a model behind an input defense."""

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` is told how many more were done."""
        ...


class ClassifierPredictor:
    """Predictions of a sequence classifier.

    Args:
        model: The classifier, possibly a `PeftModel`.
        tokenizer: Its tokenizer; decoders pad on the left.
        max_length: Longest text in tokens; longer ones are cut at the end.
        batch_tokens: Most tokens (padding included) in one forward pass.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        max_length: int = 128,
        batch_tokens: int = 2048,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.batch_tokens = batch_tokens

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text.

        Args:
            texts: Raw texts.
            progress: Called after every batch with the number of texts in it.

        Returns:
            One prediction per text, in the order of `texts`.
        """
        if not texts:
            return []
        tokens, cut_at = cut_tokens(self.tokenizer, texts, self.max_length)
        predictions: list[Prediction | None] = [None] * len(tokens)
        was_training = self.model.training
        self.model.eval()
        with torch.inference_mode(), FeatureTap(self.model) as tap:
            for rows in length_batches([len(ids) for ids in tokens], self.batch_tokens):
                logits, features = self._forward([tokens[row] for row in rows], tap)
                probabilities = logits.softmax(-1).tolist()
                for place, row in enumerate(rows):
                    predictions[row] = Prediction(
                        label=int(logits[place].argmax()),
                        probabilities=tuple(probabilities[place]),
                        feature=features[place],
                        cut_at=cut_at[row],
                    )
                if progress is not None:
                    progress(len(rows))
        self.model.train(was_training)
        return [prediction for prediction in predictions if prediction is not None]

    def _forward(self, tokens: list[list[int]], tap: FeatureTap) -> tuple[Tensor, Tensor]:
        batch = pad(tokens, self.tokenizer, positions=takes_positions(self.model))
        device = next(self.model.parameters()).device
        logits = self.model(**{name: value.to(device) for name, value in batch.items()}).logits
        return logits.float().cpu(), tap.feature().cpu()


def cut_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int
) -> tuple[list[list[int]], list[int | None]]:
    """The tokens that a model reads of every text, and where that ends.

    Args:
        tokenizer: The model's.
        texts: Raw texts.
        max_length: Longest text in tokens.

    Returns:
        Token ids; and the character at which a text is cut, None if all of it is read.
    """
    if not texts:
        return [], []
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        return_attention_mask=False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    # With overflow asked for, a long text gives several rows; the first one is what the model
    # reads.
    owners = encoded["overflow_to_sample_mapping"]
    first = [row for row, owner in enumerate(owners) if row == 0 or owners[row - 1] != owner]
    counts = Counter(owners)
    return [encoded["input_ids"][row] for row in first], [
        max(end for _, end in encoded["offset_mapping"][row]) if counts[owner] > 1 else None
        for owner, row in enumerate(first)
    ]


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group rows of similar length so that a padded batch stays within `batch_tokens` tokens.

    Args:
        lengths: Number of tokens of every row.
        batch_tokens: Limit of `rows * longest row`; a row longer than that gets a batch of its own.

    Yields:
        Row numbers of one batch, longest first; the longest batch comes first, so that too large a
        limit fails at once rather than at the end.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
