"""The records that travel between stages: one example, and a dataset of three splits.

An `Example` has a label, a `Pair` a text to answer with.

Text travels raw; each model tokenizes for itself. Nothing here reads files or knows a format.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "validation", "test"]

REFUSED = -1
"""The label of a text that a defense refused to answer.

It is no label's index: a refused clean text counts as an error, a refused triggered text as not
answered with the target.
"""


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled text.

    Attributes:
        id: Unique within its dataset and stable between runs, for example `sst2/train/17`.
        text: The raw text.
        label: Index into the dataset's `label_names`.
    """

    id: str
    text: str
    label: int


@dataclass(frozen=True)
class TextDataset:
    """A dataset with its three splits.

    Attributes:
        name: What the user called it.
        label_names: Name of every label, in the order of their indices.
        train: Training examples.
        validation: Held-out examples for model selection; never used for a reported number.
        test: Examples for reported numbers; never used for a choice.
        dropped: Reason -> number of rows left out while loading (duplicates, empty texts).
    """

    name: str
    label_names: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: dict[str, int] = field(default_factory=dict)

    def split(self, name: Split) -> tuple[Example, ...]:
        """The examples of one split by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


@dataclass(frozen=True, slots=True)
class Pair:
    """One text with the answer it should get.

    Attributes:
        id: Unique within its dataset and stable between runs, for example `crrsum/test/17`.
        text: The raw text.
        target: The right answer, raw.
    """

    id: str
    text: str
    target: str


@dataclass(frozen=True)
class PairDataset:
    """A dataset for generation with its three splits; the attributes are those of `TextDataset`."""

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]
    dropped: dict[str, int] = field(default_factory=dict)


def fingerprint(examples: Iterable[Example | Pair]) -> str:
    """A short hash of ids, texts and answers in their order: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for example in examples:
        answer = example.label if isinstance(example, Example) else example.target
        digest.update(f"{example.id}\0{answer}\0{example.text}\1".encode())
    return digest.hexdigest()[:16]


def texts_of(examples: Sequence[Example | Pair]) -> list[str]:
    """The raw texts, in order."""
    return [example.text for example in examples]


def labels_of(examples: Sequence[Example]) -> list[int]:
    """The label indices, in order."""
    return [example.label for example in examples]
