"""What a disk does to results: it may be full, and it may not have them yet."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from w2sdefense.errors import W2SError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_LITTLE = 2**20
"""Bytes on a disk that is as good as full."""


class FullDiskError(W2SError):
    """There is no room for results.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"The disk of {folder} is full; what was finished stays.",
            "Make room, and give the same command again.",
        )


@contextmanager
def explain_full_disk(folder: Path) -> Iterator[None]:
    """Turn the errors of a full disk, whoever reports them, into one that says what to do.

    Raises:
        FullDiskError: There is no room.
    """
    try:
        yield
    except Exception as error:
        if not _is_full(error) and _has_room(folder):
            raise
        raise FullDiskError(folder) from error


def to_disk(folder: Path) -> None:
    """Have the system write out all files of a folder, but for those that vanish meanwhile."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())


def _has_room(folder: Path) -> bool:
    """Whether a failure may have another reason: torch says no more than that a write failed."""
    try:
        return shutil.disk_usage(folder).free > _LITTLE
    except OSError:
        return True


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # Libraries in other languages only pass the words on.
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
