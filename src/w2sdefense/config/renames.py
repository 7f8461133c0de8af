"""Settings that were renamed or removed: old files and flags keep working for one release.

`RENAMES` is the only place that knows an old name. An entry stays until the release after the one
that it came with.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rename:
    """An old name.

    Attributes:
        run: Name of the settings class of the run.
        old: Path that the setting or the section had ("section.setting").
        new: Its path now; None if it was removed.
        flag: The flag that it had, without dashes before it; None for a section.
    """

    run: str
    old: str
    new: str | None = None
    flag: str | None = None


RENAMES = (
    Rename("BenchRun", "launcher", None, "launcher"),
    Rename("BenchRun", "ray.retries", None, "ray-retries"),
    Rename("BenchRun", "ray.defend.gpus", "ray.gpus", "ray-defend-gpus"),
    Rename("BenchRun", "ray.defend.memory_gb", "ray.memory_gb", "ray-defend-memory-gb"),
    Rename("BenchRun", "ray.defend"),
    Rename("BenchRun", "ray.poison"),
    Rename("BenchRun", "ray.teach"),
    *(
        Rename(run, f"soft.{old}", None, f"soft-trigger-{old}".replace("_", "-"))
        for run in ("DefendRun", "TuneRun")
        for old in ("per_label", "tokens", "rate", "step", "restart")
    ),
    *(
        Rename(run, f"insertions.{old}", None, f"insertion-{old}")
        for run in ("DefendRun", "TuneRun")
        for old in ("rate", "phrases")
    ),
    Rename("DefendRun", "insertions"),
    Rename("TuneRun", "insertions"),
    Rename("DefendRun", "soft"),
    Rename("TuneRun", "soft"),
    *(
        Rename(run, f"scan.{old}", new and f"scan.{new}", f"{prefix}{old}")
        for run, prefix in (("DefendRun", "scan-"), ("TuneRun", "scan-"), ("ScanRun", ""))
        for old, new in (
            ("moved", "base_tokens"),
            ("suspects", "kept"),
            ("first", None),
            ("parents", "survivors"),
            ("children", "mutations"),
        )
    ),
)


def with_new_names(run: str, values: dict[str, Any], source: str) -> dict[str, Any]:
    """Nested values under the names of today, with a warning for every old one.

    Args:
        run: Name of the settings class of the run.
        values: As read from a file or given as flags; left as they are.
        source: Where they come from, for the warning.
    """
    renamed = copy.deepcopy(values)
    for rename in RENAMES:
        *parents, name = rename.old.split(".")
        place: Any = renamed
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if rename.run != run or not isinstance(place, dict) or name not in place:
            continue
        value = place.pop(name)
        if value == {}:
            continue
        fate = "was removed and changes nothing" if rename.new is None else f"is {rename.new} now"
        warnings.warn(f"{source}: the setting {rename.old} {fate}.", FutureWarning, stacklevel=2)
        if rename.new is not None:
            _put(renamed, rename.new.split("."), value)
    return renamed


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    """Set one of nested values, unless it is given under its new name, too."""
    for parent in path[:-1]:
        values = values.setdefault(parent, {})
    values.setdefault(path[-1], value)
