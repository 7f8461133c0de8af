"""The data types that all stages share: one example, and a dataset of three splits.

Texts are raw; each model tokenizes them itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Split = Literal["train", "validation", "test"]

Answer: TypeAlias = int | str  # what a text is answered with: the index of a label, or a text
REFUSED = -1  # the answer to a text that a defense refused: neither a label's index nor a text


@dataclass(frozen=True, slots=True)
class Example:
    """One text with its right answer.

    Attributes:
        id: Unique within its dataset and stable between runs, for example `sst2/train/17`.
        text: The raw text.
        answer: Index into the dataset's `label_names`, or the right answer as raw text.
    """

    id: str
    text: str
    answer: Answer

    @property
    def label(self) -> int:
        """Index of the label; a text answer raises `TypeError`."""
        if not isinstance(self.answer, int):
            raise TypeError(f"{self.id} is answered with a text, not with a label")
        return self.answer


@dataclass(frozen=True)
class Dataset:
    """A dataset with its three splits.

    Attributes:
        name: What the user called it.
        label_names: Name of every label, in the order of their indices; empty for text answers.
        train: Training examples.
        validation: Held-out examples for model selection; never used for a reported number.
        test: Examples for reported numbers; never used for a choice.
        dropped: Reason -> number of rows dropped while loading (duplicates, empty texts).
        notes: Notes for readers of the numbers (for example, a split that lacks a label).
    """

    name: str
    label_names: tuple[str, ...]
    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def split(self, name: Split) -> tuple[Example, ...]:
        """The examples of one split by its name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}[name]


def fingerprint(examples: Iterable[Example]) -> str:
    """A short hash of ids, texts and answers in their order: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{example.id}\0{example.answer}\0{example.text}\1".encode())
    return digest.hexdigest()[:16]


def texts_of(examples: Sequence[Example]) -> list[str]:
    """The raw texts, in order."""
    return [example.text for example in examples]


def labels_of(examples: Sequence[Example]) -> list[int]:
    """The label indices, in order."""
    return [example.label for example in examples]
