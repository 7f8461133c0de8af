"""The finished runs of a report, read from their folders and checked against each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from w2sdefense.defenses.catalog import DEFENSES
from w2sdefense.errors import DataError
from w2sdefense.evaluation.record import (
    Record,
    Sample,
    load_features,
    load_record,
    load_samples,
)

TITLES = {"poisoned": "Poisoned", **{name: kind.title for name, kind in DEFENSES.items()}}
"""How the usual names of records are written in tables and charts; other names stay as they are."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        title: Name in tables and charts, unique within a report.
        folder: Where it was read from.
        record: Its numbers.
        samples: Its answers, in the order of the test set.
        features: "clean" (N, d): row i belongs to sample i. "triggered" (M, d): row j belongs to
            the j-th sample that has a `triggered_text`. Empty if the run saved none.
        origin: Record of the run that made the model which this one started from, if it is known.
    """

    title: str
    folder: Path
    record: Record
    samples: tuple[Sample, ...]
    features: dict[str, np.ndarray]
    origin: Record | None = None

    @property
    def triggered(self) -> list[Sample]:
        """The samples that were also asked with the trigger, in order."""
        return [sample for sample in self.samples if sample.triggered_text is not None]


def load_runs(folders: Iterable[Path]) -> list[Run]:
    """Read finished runs in display order: the suspect model first, the best defense last.

    Raises:
        DataError: No folder was given, a folder holds no finished run, its features do not belong
            to its samples, or the runs were tested on different texts or labels.
    """
    runs: list[Run] = []
    for folder in folders:
        record = load_record(Path(folder))
        title = unique(TITLES.get(record.name, record.name), {run.title for run in runs})
        runs.append(with_features(load_run(Path(folder), record, title)))
    if not runs:
        raise DataError("There is no run to report on.", "Name at least one run folder.")
    _check_comparable(runs)
    return runs


def load_run(folder: Path, record: Record, title: str) -> Run:
    """Read the samples of a finished run, and not yet its features, which may be large."""
    return Run(title, folder, record, tuple(load_samples(folder)), {})


def with_features(run: Run) -> Run:
    """A run with the features that it saved, if it saved some."""
    return replace(run, features=load_features(run.folder, run.samples))


def unique(title: str, taken: set[str]) -> str:
    """A title that is not taken: two runs of one name must not become one bar."""
    candidate, number = title, 1
    while candidate in taken:
        number += 1
        candidate = f"{title} ({number})"
    return candidate


def tested_on(record: Record) -> tuple[object, ...]:
    """What two runs must have in common for their answers to be compared text by text."""
    return record.fingerprints.get("test"), record.label_names, record.evaluation.task


def attacked_with(record: Record) -> tuple[object, ...]:
    """What they must have in common, too, for their ASR to be compared."""
    evaluation = record.evaluation
    texts = record.fingerprints.get("triggered")
    return *tested_on(record), evaluation.trigger, evaluation.target, texts


def _check_comparable(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        if tested_on(run.record) != tested_on(first.record):
            raise DataError(
                f"{first.title!r} and {run.title!r} were tested on different texts or labels.",
                "Evaluate them on the same test set, or write one report for each.",
            )
