"""Reads and checks the finished runs of a report, and determines how they differ.

The differences come from the settings in the records. They become the columns of the table and the
axes of sweeps. Settings that a defense does not read are ignored: LoRA has no loss weights, even if
its record contains them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from w2sdefense.config import ADAPTER_OWNERS, flat
from w2sdefense.defenses.catalog import DEFENSES, sections_of
from w2sdefense.errors import DataError
from w2sdefense.evaluation.record import Record, Sample, load_features, load_record, load_samples

TITLES = {"poisoned": "Poisoned", **{name: kind.title for name, kind in DEFENSES.items()}}
"""Titles of known record names in tables and charts; other names stay unchanged."""


@dataclass(frozen=True)
class Run:
    """One finished run."""

    title: str  # name in tables and charts, unique within a report
    folder: Path  # where it was read from
    record: Record  # its numbers
    samples: tuple[Sample, ...]  # its answers, in the order of the test set
    # "clean" (N, d): row i belongs to sample i. "triggered" (M, d): row j belongs to the j-th
    # sample that has a `triggered_text`. Empty if the run saved none.
    features: dict[str, np.ndarray]
    # record of the run that made the model which this run started from; None if unknown
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
    """Read the samples of a finished run, but not its features, which may be large."""
    return Run(title, folder, record, tuple(load_samples(folder)), {})


def with_features(run: Run) -> Run:
    """Add the saved features to a run, if there are any."""
    return replace(run, features=load_features(run.folder, run.samples))


def unique(title: str, taken: set[str]) -> str:
    """Make a title unique, so that two runs of one name do not become one bar."""
    candidate, number = title, 1
    while candidate in taken:
        number += 1
        candidate = f"{title} ({number})"
    return candidate


def tested_on(record: Record) -> tuple[object, ...]:
    """What must be equal for two runs to be compared text by text."""
    return record.fingerprints.get("test"), record.label_names, record.evaluation.task


def attacked_with(record: Record) -> tuple[object, ...]:
    """What must be equal for the ASR of two runs to be compared."""
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


Value = str | int | float

SWEEPS = {
    "rank": ("adapter", "lora_r"),
    "alpha": ("distill", "alpha"),
    "beta": ("distill", "beta"),
    "gamma": ("distill", "gamma"),
    "temperature": ("distill", "temperature"),
}
"""Axis of a sweep -> section and name of its setting."""


@dataclass(frozen=True)
class Group:
    """Runs with the same test (texts, trigger, target): a title of the test, and their indices."""

    title: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Series:
    """Runs that differ only in one setting and their seeds: (value, index), ascending."""

    title: str
    points: tuple[tuple[float, int], ...]


def axes_of(run: Run) -> dict[str, Value]:
    """The values of a run by axis, without axes that do not apply to it."""
    settings, record = _read_settings(run.record), run.record
    axes = {
        "student": _student(run),
        "dataset": _at(record.config, "data", "dataset"),
        "proxy": _proxy(run),
        "attack": _attack(record),
        "method": method_of(record),
        "teacher": _at(settings, "teacher", "model"),
        "adapter": _at(settings, "adapter", "adapter"),
        **{axis: _at(settings, *path) for axis, path in SWEEPS.items()},
        "seed": _at(record.config, "training", "seed"),
    }
    if axes["adapter"] not in ADAPTER_OWNERS["lora_r"]:
        axes["rank"] = None
    return {axis: value for axis, value in axes.items() if value is not None}


def distinct_axes(axes: Sequence[Mapping[str, Value]]) -> list[str]:
    """The axes on which runs differ, and those that all runs have."""
    names = dict.fromkeys(name for each in axes for name in each)
    found = {name: [each[name] for each in axes if name in each] for name in names}
    return [n for n, values in found.items() if len(set(values)) > 1 or len(values) == len(axes)]


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Group the runs by test, in the order of the first run of each group."""
    found: dict[tuple[object, ...], list[int]] = {}
    for place, run in enumerate(runs):
        found.setdefault(attacked_with(run.record), []).append(place)
    groups: list[Group] = []
    for places in found.values():
        said = axes_of(runs[places[0]])
        words = [str(said[axis]) for axis in ("dataset", "attack") if axis in said]
        title = unique(", ".join(words), {group.title for group in groups})
        groups.append(Group(title, tuple(places)))
    return groups


def sweeps_of(runs: Sequence[Run], places: Sequence[int], axis: str) -> list[Series]:
    """The series of runs in a group that differ only in one setting and their seeds."""
    found: dict[str, list[tuple[float, int]]] = {}
    for place in places:
        settings = dict(_compared(runs[place]))
        value = settings.pop(".".join(SWEEPS[axis]), None)
        if isinstance(value, int | float) and axis in axes_of(runs[place]):
            key = json.dumps(settings, sort_keys=True, default=str)
            found.setdefault(key, []).append((value, place))
    swept = [sorted(points) for points in found.values() if len({v for v, _ in points}) > 1]
    said = [axes_of(runs[points[0][1]]) for points in swept]
    titles: list[str] = []
    for axes in said:
        alike = [each for each in said if each["method"] == axes["method"]]
        words = [
            f"{name} {value}"
            for name, value in axes.items()
            if name not in (axis, "seed") and len({each.get(name) for each in alike}) > 1
        ]
        method = TITLES.get(str(axes["method"]), str(axes["method"]))
        titles.append(unique(", ".join([method, *words]), set(titles)))
    return [Series(t, tuple(points)) for t, points in zip(titles, swept, strict=True)]


_LEAVES_THE_VICTIM = frozenset(
    "output resume training.save_steps training.report_to data.test_samples".split()
)
"""Settings of a poisoning that do not affect the victim."""


def _compared(run: Run) -> Iterator[tuple[str, Any]]:
    """The settings that affect a result, flat and without seeds, and those of its poisoning.

    The student is named by its original model instead of its folder.
    """
    for name, value in flat(_read_settings(run.record)):
        if name == "student.model":
            yield name, _student(run)
        elif not name.endswith("seed"):
            yield name, value
    if run.origin is not None:
        for name, value in flat(run.origin.config):
            if name not in _LEAVES_THE_VICTIM and not name.endswith("seed"):
                yield f"victim.{name}", value


def _read_settings(record: Record) -> dict[str, Any]:
    """The sections of the settings that a defense reads; empty if the run is no defense."""
    defense = record.config.get("defense")
    if record.stage != "defend" or defense not in DEFENSES:
        return {}
    sections = sections_of(defense)
    if "distill" in sections:
        sections |= {"teacher"}
    return {name: value for name, value in record.config.items() if name in sections}


def _at(values: Mapping[str, Any], section: str, name: str) -> Any:
    """A setting; None if the record does not have it (other release, other stage)."""
    found = values.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def _student(run: Run) -> str | None:
    """The name of the attacked or defended model before the attack."""
    model = _at((run.origin or run.record).config, "student", "model")
    # The last two parts of a path have the form of a hub id.
    return None if model is None else "/".join(Path(str(model)).parts[-2:])


def _proxy(run: Run) -> str | None:
    """The dataset that the victim was poisoned on; None if there is no record of that."""
    poisoned = run.origin or (run.record if run.record.stage == "poison" else None)
    return None if poisoned is None else str(poisoned.config.get("proxy") or "same")


def method_of(record: Record) -> str:
    """The defense of a run; for other stages, what its model is."""
    if record.stage == "defend":
        return str(record.config.get("defense", record.name))
    return "poisoned" if record.stage == "poison" else "as it is"


def _attack(record: Record) -> str | None:
    """The trigger if the user named one, else the name of the attack."""
    stage = "attack" if record.stage == "poison" else "test"
    first = _at(record.config, stage, "trigger") or _at(record.config, stage, "attack")
    more = _at(record.config, stage, "more_triggers") or ()
    return " + ".join(map(str, (first, *more))) if first else record.evaluation.trigger
