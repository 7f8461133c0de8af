"""Local models and data that settings name: what tells that they have changed.

Their names, sizes and times; contents are not read, because models of many gigabytes would have to
be for every plan. So a copy on another machine, with times of its own, is another model.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from w2sdefense.data import CATALOG, PAPER
from w2sdefense.models.embedded import EMBEDDED

NAMES_FILES = frozenset(
    "model student models base dataset proxy file paraphraser to back scorer "
    "fine_tuned_from".split()
)
"""Settings whose values may be files or folders, wherever they stand."""

NAMES = frozenset([*CATALOG, *EMBEDDED, PAPER])
"""What is never a folder, even if there is one of that name."""


def local_files(settings: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The files and folders that settings name.

    Args:
        settings: Plain values, in sections.

    Returns:
        Name -> name, size and time of every file of it but for hidden ones, which a look by a tool
        (git) changes.
    """
    return {name: _marks(Path(os.path.expanduser(name))) for name in _named(settings)}


def _named(settings: Mapping[str, Any]) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif name in NAMES_FILES:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str) and each not in NAMES:
                    if os.path.exists(os.path.expanduser(each)):
                        yield each


def _marks(path: Path) -> list[Any]:
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and not _hidden(p, path))
    stats = [(file, file.stat()) for file in files]
    return [[str(f.relative_to(path)), stat.st_size, stat.st_mtime_ns] for f, stat in stats]


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
