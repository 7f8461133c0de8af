"""Rows and batches for training: tokenized once, padded to the batch, grouped by length.

What is done with a batch is the business of the Trainer (`training.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler

from w2sdefense.data.types import Example, Pair, labels_of, texts_of
from w2sdefense.models.padding import pad
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.tasks.prompt import IGNORED, Prompt

Row = dict[str, Any]
"""One tokenized example: `input_ids`, `labels`, and whatever tensors the loss needs beside them."""


def tokenize(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> list[Row]:
    """Tokenize examples once, before training.

    Args:
        examples: Labelled texts.
        tokenizer: The model's tokenizer.
        max_length: Longest text in tokens; the rest is cut at the end.

    Returns:
        One row per example with `input_ids` and `labels`.
    """
    tokens = tokenizer(
        texts_of(examples), truncation=True, max_length=max_length, return_attention_mask=False
    )["input_ids"]
    return [
        {"input_ids": ids, "labels": label}
        for ids, label in zip(tokens, labels_of(examples), strict=True)
    ]


@dataclass(frozen=True)
class Collator:
    """Pads the tokens of some rows to the longest of them and stacks everything else.

    Attributes:
        tokenizer: Knows the padding token and its side.
        positions: Whether the model takes `position_ids`.
    """

    tokenizer: Tokenizer
    positions: bool

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Batch of what `pad` gives (B, L), `labels` (B,), other columns (B, ...)."""
        batch = pad([row["input_ids"] for row in rows], self.tokenizer, positions=self.positions)
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        for column in rows[0].keys() - {"input_ids", "labels"}:
            batch[column] = torch.stack([row[column] for row in rows])
        return batch


def tokenize_pairs(pairs: Sequence[Pair], prompt: Prompt) -> list[Row]:
    """Prompt and answer of every pair, as tokens.

    Returns:
        One row per pair with `input_ids` and `labels` of the same length; labels are `IGNORED` but
        for the answer.
    """
    rows = []
    for pair in pairs:
        ids, labels = prompt.teach(pair.text, pair.target)
        rows.append({"input_ids": ids, "labels": labels})
    return rows


@dataclass(frozen=True)
class PairCollator:
    """Pads rows of prompt and answer on the left, so that all answers end in the last column.

    Attributes:
        tokenizer: Knows the padding token and its side.
        positions: Whether the model takes `position_ids`.
    """

    tokenizer: Tokenizer
    positions: bool

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Batch of what `pad` gives, and `labels`, all (B, L)."""
        batch = pad([row["input_ids"] for row in rows], self.tokenizer, positions=self.positions)
        labels = torch.full_like(batch["input_ids"], IGNORED)
        for place, row in enumerate(rows):
            labels[place, -len(row["labels"]) :] = torch.tensor(row["labels"])
        batch["labels"] = labels
        return batch


class SimilarLengths(Sampler[int]):
    """An order of rows in which every batch holds rows of similar length.

    All rows of the epoch are sorted by length, cut into batches, and the batches are shuffled. The
    Trainer's own `group_by_length` sorts within pieces of at most a quarter of the rows: on 256 to
    1,000 review sentences in batches of 16 that leaves 24 % to 8 % of the tokens as padding, this
    here 10 % to 4 %. Lengths are made up to a tenth longer at random first, and the incomplete
    batch is cut out at a random place, so that an epoch does not repeat the batches of the last.

    The order depends on `seed` and the epoch only: processes agree on it, and a resumed run goes on
    with it. The first epoch starts with the longest rows, so that too large a batch fails at once.

    Args:
        lengths: Number of tokens of every row.
        batch_size: Rows per batch, over all processes.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self._lengths = torch.tensor(lengths, dtype=torch.float64)
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, before every one."""
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
        # A data loader cuts the order itself, so only its end can be an incomplete batch.
        yield from torch.cat([batches[shuffled].flatten(), incomplete]).tolist()
