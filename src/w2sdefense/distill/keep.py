"""A fitted teacher is kept in a folder, and found there again by what made it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from accelerate import PartialState

from w2sdefense.io import write_json
from w2sdefense.training import remove_checkpoints


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
) -> S:
    """Open what is in a folder if the same settings and data made it; else make and save it.

    Args:
        key: Everything that decides the result, as plain values.
        folder: Where it is kept.
        load: Opens it.
        fit: Makes it; told whether to go on from checkpoints in the folder.
        resume: Whether it may: checkpoints of another key are never gone on from.
    """
    state = PartialState()
    made_from, started = folder / "made_from.json", folder / "settings.json"
    found = _read(made_from) == key
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


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
