"""What runs differ in: the columns of their table, and the settings that sweeps go over.

It is read from the settings in the records. A setting that a defense does not read is none of its
own: LoRA has no loss weights, whatever its record says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from w2sdefense.config import ADAPTER_OWNERS, flat
from w2sdefense.defenses.catalog import DEFENSES, sections_of
from w2sdefense.evaluation.record import Record
from w2sdefense.report.runs import TITLES, Run, attacked_with, unique

Value = str | int | float

SWEEPS = {
    "rank": ("adapter", "lora_r"),
    "alpha": ("distill", "alpha"),
    "beta": ("distill", "beta"),
    "gamma": ("distill", "gamma"),
    "temperature": ("distill", "temperature"),
}
"""Settings that are varied to see what they do, and where they are."""


@dataclass(frozen=True)
class Group:
    """Runs that were tested alike (texts, trigger, target): on what, and their places."""

    title: str
    places: tuple[int, ...]


@dataclass(frozen=True)
class Series:
    """Runs that differ in one setting and their seeds only: their values and places, ascending."""

    title: str
    points: tuple[tuple[float, int], ...]


def axes_of(run: Run) -> dict[str, Value]:
    """What a run is, by axis; without the axes that say nothing of it."""
    settings, record = _read_settings(run.record), run.record
    axes = {
        "student": _student(run),
        "dataset": _at(record.config, "data", "dataset"),
        "proxy": _proxy(run),
        "attack": _attack(record),
        "method": _method(record),
        "teacher": _at(settings, "teacher", "model"),
        "adapter": _at(settings, "adapter", "adapter"),
        **{axis: _at(settings, *path) for axis, path in SWEEPS.items()},
        "seed": _at(record.config, "training", "seed"),
    }
    if axes["adapter"] not in ADAPTER_OWNERS["lora_r"]:
        axes["rank"] = None
    return {axis: value for axis, value in axes.items() if value is not None}


def distinct_axes(axes: Sequence[Mapping[str, Value]]) -> list[str]:
    """The axes that tell several runs apart, and those that say something of all of them."""
    names = dict.fromkeys(name for each in axes for name in each)
    found = {name: [each[name] for each in axes if name in each] for name in names}
    return [n for n, values in found.items() if len(set(values)) > 1 or len(values) == len(axes)]


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The runs in groups that were tested alike, in the order of the first of each."""
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
    """The runs of a group that differ in one setting and their seeds only."""
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
"""Settings of a poisoning that do not change what comes out of it."""


def _compared(run: Run) -> Iterator[tuple[str, Any]]:
    """The settings that decide a result, flat, without seeds; folders by what is in them."""
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
    """The sections of the settings that a defense reads; none of a run that is no defense."""
    defense = record.config.get("defense")
    if record.stage != "defend" or defense not in DEFENSES:
        return {}
    sections = sections_of(defense)
    if "distill" in sections:
        sections |= {"teacher"}
    return {name: value for name, value in record.config.items() if name in sections}


def _at(values: Mapping[str, Any], section: str, name: str) -> Any:
    """A setting; None if there is no such one (records of other releases, other stages)."""
    found = values.get(section)
    return found.get(name) if isinstance(found, Mapping) else None


def _student(run: Run) -> str | None:
    """The model that was attacked or defended, by the name that it had before it was attacked."""
    model = _at((run.origin or run.record).config, "student", "model")
    # Of a folder the last two names, as of a model on a hub.
    return None if model is None else "/".join(Path(str(model)).parts[-2:])


def _proxy(run: Run) -> str | None:
    """What the victim was poisoned on; None if there is no record of that."""
    poisoned = run.origin or (run.record if run.record.stage == "poison" else None)
    return None if poisoned is None else str(poisoned.config.get("proxy") or "same")


def _method(record: Record) -> str:
    if record.stage == "defend":
        return str(record.config.get("defense", record.name))
    return "poisoned" if record.stage == "poison" else "as it is"


def _attack(record: Record) -> str | None:
    """The attack, or the trigger if it is one of the user's."""
    stage = "attack" if record.stage == "poison" else "test"
    first = _at(record.config, stage, "trigger") or _at(record.config, stage, "attack")
    more = _at(record.config, stage, "more_triggers") or ()
    return " + ".join(map(str, (first, *more))) if first else record.evaluation.trigger
