"""Checks before a long run: there is something to learn, and data and model share their labels.

Labels are compared by name, ignoring case, because their order differs between checkpoints. Two
kinds of names carry no information and are compared by position instead: the integers of a dataset
without names (`0`, `1`), and the placeholders of a model without names (`LABEL_0`, `LABEL_1`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from w2sdefense.data.rows import listed
from w2sdefense.data.types import Dataset, Example, Split, labels_of
from w2sdefense.errors import DataError


def check_usable(dataset: Dataset) -> None:
    """Raise a `DataError` unless all splits have examples, and train (if labelled) two labels."""
    for split in get_args(Split):
        if not dataset.split(split):
            raise DataError(
                f"{dataset.name}: the {split} split is empty after removing texts that other "
                "splits contain.",
                "Use splits that do not share their texts.",
            )
    found = set(labels_of(dataset.train)) if dataset.label_names else set()
    if len(found) == 1:
        raise DataError(
            f"{dataset.name}: all training rows have the label "
            f"{listed([dataset.label_names[found.pop()]])}.",
            "Use data with at least two labels, or name another column with --label-column.",
        )


def label_notes(dataset: Dataset) -> tuple[str, ...]:
    """Notes on labels that differ only in spelling, and on splits that lack a label."""
    alike: dict[str, list[str]] = {}
    for name in dataset.label_names:
        form = unicodedata.normalize("NFKC", name).casefold()
        alike.setdefault("".join(filter(str.isprintable, form)), []).append(name)
    notes = [
        f"the labels {listed(names)} differ in spelling only and count as {len(names)} labels"
        for names in alike.values()
        if len(names) > 1
    ]
    for split in get_args(Split):
        found = set(labels_of(dataset.split(split))) if dataset.label_names else set()
        missing = [name for i, name in enumerate(dataset.label_names) if i not in found]
        if missing:
            notes.append(f"no {split} text has the label {listed(missing)}")
    return tuple(notes)


def align_labels(dataset: Dataset, model_label_names: Sequence[str]) -> Dataset:
    """Convert the labels of a dataset to the indices and names of a model.

    If the model has only placeholders, the dataset keeps its names.

    Raises:
        DataError: The model lacks a label of the dataset.
    """
    if not dataset.label_names:
        return dataset
    positions = _positions(dataset, model_label_names)
    names = tuple(model_label_names)
    if len(names) == len(dataset.label_names) and are_placeholders(names):
        names = dataset.label_names

    def moved(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(replace(example, answer=positions[example.label]) for example in examples)

    return replace(
        dataset,
        label_names=names,
        train=moved(dataset.train),
        validation=moved(dataset.validation),
        test=moved(dataset.test),
    )


def require_aligned(dataset: Dataset, model_label_names: Sequence[str]) -> None:
    """Raise a `DataError` unless dataset and model have the same labels in the same order."""
    if dataset.label_names != tuple(model_label_names):
        raise DataError(
            f"{dataset.name} has the labels {listed(dataset.label_names)}, in this order, but "
            f"the model has {listed(model_label_names)}.",
            "Align them: data = align_labels(data, victim.label_names).",
        )


def _positions(dataset: Dataset, model_label_names: Sequence[str]) -> list[int]:
    """Index in the model of every label of the dataset."""
    names, model = dataset.label_names, list(model_label_names)
    if len(model) == len(names) and are_placeholders(model):
        return list(range(len(names)))
    # Exact names take precedence, for models that distinguish "US" and "us".
    index = {name.casefold(): i for i, name in enumerate(model)}
    index |= {name: i for i, name in enumerate(model)}
    if by_position(names, model):
        index = {str(i): i for i in range(len(model))}
    positions = {name: index.get(name, index.get(name.casefold())) for name in names}
    missing = [name for name, position in positions.items() if position is None]
    if missing:
        raise DataError(
            f"{dataset.name} has labels that the model does not have: {listed(missing)}. "
            f"The model has: {listed(model)}.",
            "Rename the labels in the data, or use a model that was trained for them.",
        )
    return [position for position in positions.values() if position is not None]


def by_position(names: Sequence[str], model: Sequence[str]) -> bool:
    """Whether the labels of data and model can only be matched by their order."""
    numbered = list(names) == [str(index) for index in range(len(names))]
    return are_placeholders(model) or (numbered and "0" not in model)


def are_placeholders(names: Sequence[str]) -> bool:
    """Whether all labels have the default names of `transformers`, `LABEL_0` and so on."""
    return all(name == f"LABEL_{index}" for index, name in enumerate(names))
