"""Writes result files atomically, and guards folders of results.

A reader never sees a partial file: everything is written under a temporary name in the same folder,
fsynced and renamed. Whether a folder can be written to is checked before the work.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from fcntl import LOCK_EX, LOCK_NB, flock
from glob import escape
from pathlib import Path
from socket import gethostname
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from w2sdefense.errors import FETCH_AGAIN, ConfigError, DataError, W2SError, reading

T = TypeVar("T")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; rename it to `path` if the block succeeds.

    The block must write the file. If it raises, `path` does not change. Temporary files of killed
    processes are removed first; a running process holds a lock on its temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{escape(path.name)}.*{escape(path.suffix)}"):
        _remove_unlocked(left)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    temporary = Path(name)
    try:
        with suppress(OSError):  # some file systems have no locks
            flock(handle, LOCK_EX | LOCK_NB)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        os.close(handle)


def _remove_unlocked(path: Path) -> None:
    with suppress(OSError), path.open("rb") as file:
        flock(file, LOCK_EX | LOCK_NB)
        path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON atomically; a `ValueError` for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(
    path: Path, kind: type[W2SError] = DataError, fix: str = FETCH_AGAIN
) -> dict[str, Any]:
    """Read the mapping in an untrusted JSON file; raises `kind` if it is broken or no mapping."""
    with reading(kind, f"{path} cannot be read", fix):
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise kind(f"{path} holds no JSON mapping.", fix)
        return values


def readable(read: Callable[[], T]) -> T | None:
    """The result of a function that reads our own files; None if they are missing or broken.

    A power failure may break any file; the caller then creates its content again.
    """
    try:
        with reading(DataError, "It cannot be read"):
            return read()
    except W2SError:
        return None


def make_folder(folder: Path) -> None:
    """Create the folder of a run before any work; a `ConfigError` if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be a folder for results: {error.strerror}.", "Choose another folder."
        ) from None


def nearest(path: Path) -> Path:
    """The path itself if it exists, else its nearest existing parent."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Lock a folder against other commands while the block runs; creates it if necessary.

    Among the processes of a launcher (torchrun), the first one holds the lock. A killed process
    releases it.

    Raises:
        ConfigError: Another command, which the message names, works in the folder.
    """
    make_folder(folder)
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    owner = folder / ".owner.json"
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(
            f"Another command works in {folder}{_said(owner)}.",
            "Wait for it, or choose another --output.",
        ) from None
    try:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        command = shlex.join(sys.argv)
        me = {"pid": os.getpid(), "host": gethostname(), "since": now, "command": command}
        write_json(owner, me)
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _said(owner: Path) -> str:
    """Who holds a lock; empty if that is not known, because it is written after locking."""
    said = ": process {pid} on {host} since {since}, {command}"
    return readable(lambda: said.format_map(read_json(owner))) or ""
