"""A fitted teacher is kept in a folder, and found there again by what made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from w2sdefense.errors import ConfigError
from w2sdefense.io import write_json
from w2sdefense.training.trainer import remove_checkpoints, this_process


class Saved(Protocol):
    """Something that can be written to a folder."""

    def save(self, folder: Path) -> None:
        """Write it."""


S = TypeVar("S", bound=Saved)


def fit_or_load(
    key: dict[str, Any],
    folder: Path,
    *,
    load: Callable[[Path], S],
    fit: Callable[[bool], S],
    resume: bool,
    run_folder: Path | None,
) -> S:
    """Open what is in a folder if the same settings and data made it; else make and save it.

    Args:
        key: Everything that decides the result, as plain values.
        folder: Where it is kept.
        load: Opens it.
        fit: Makes it; told whether to go on from checkpoints in the folder.
        resume: Whether it may: checkpoints of another key are never gone on from.
        run_folder: Folder of the run that asks. What lies in it is the run's own, and what other
            settings made there is replaced.

    Raises:
        ConfigError: It holds a teacher that other settings made, which may not be replaced.
    """
    state = this_process()
    made_from, started = folder / "made_from.json", folder / "settings.json"
    kept = _read(made_from)
    found = kept == key
    own = run_folder is not None and folder.is_relative_to(run_folder)
    if kept is not None and not found and not own:
        _refuse_other(folder, kept, key)
    resume = resume and _read(started) == key
    # No process writes before all have looked.
    state.wait_for_everyone()
    if found:
        return load(folder)
    if state.is_main_process:
        # A stale key beside new weights would pass them off as what they are not.
        made_from.unlink(missing_ok=True)
        write_json(started, key)
    made = fit(resume)
    if state.is_main_process:
        made.save(folder)
        write_json(made_from, key)
        remove_checkpoints(folder)
    state.wait_for_everyone()
    return made


def _refuse_other(folder: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Name what differs: a teacher that was kept for several runs is not trained over."""
    names = {
        "train": "training rows",
        "validation": "validation rows",
        "width": "width of the student",
        "relu": "alignment",
    }
    rest = wanted.keys() - {"config"}
    differs = [names.get(name, name) for name in sorted(rest) if made.get(name) != wanted[name]]
    config = made.get("config", {})
    differs += [
        f"{name} {config.get(name)!r} instead of {value!r}"
        for name, value in wanted["config"].items()
        if config.get(name) != value
    ]
    raise ConfigError(
        f"{folder} holds a teacher that was made with other settings ({', '.join(differs)}).",
        "Give the --teacher-... and data flags that it was made with, or name another folder.",
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
