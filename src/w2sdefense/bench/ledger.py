"""The ledger: a folder with the results of all grids, each node in a folder of its own.

    nodes/KEY/node.json    what the node is: kind, settings, what it is made from
    nodes/KEY/lock         held by the process that makes the node
    nodes/KEY/failed.json  why it could not be made the last time
    nodes/KEY/done.json    its result; written last: a node that has it is complete
    nodes/KEY/NAME/        what the stage itself writes (record, weights, checkpoints)

Every file is written whole or not at all (`io.py`). The lock is the operating system's: it goes
when its process does. Several commands may share a ledger, on one machine or on a file system with
locks.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock

from w2sdefense.bench.graph import Node
from w2sdefense.errors import W2SError
from w2sdefense.io import write_json

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_LITTLE = 2**20
"""Bytes on a disk that is as good as full."""


class FullDiskError(W2SError):
    """There is no room for results."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"The disk of {folder} is full; finished results are kept.",
            "Free some space and rerun the command.",
        )


@dataclass(frozen=True)
class Done:
    """A node that is made, as `done.json` says it.

    Attributes:
        result: What its function returned.
        seconds: How long the function took, the last time it was called.
        host: The machine it was made on.
        code: Version of the code that made it; empty if older than versions.
    """

    key: str
    kind: str
    result: Mapping[str, Any]
    seconds: float
    title: str
    host: str
    code: str = ""
    work: float = 0.0
    speed: str = ""


class Ledger:
    """The results of an experiment, in a folder that is made if missing."""

    def __init__(self, folder: Path) -> None:
        # What is made from a result names it by its path, which must not depend on where one is.
        self.folder = folder.absolute()

    def folder_of(self, key: str) -> Path:
        """The folder of a node."""
        return self.folder / "nodes" / key

    def done(self, key: str) -> Done | None:
        """The result of a node, if it is made."""
        return _read_done(self.folder_of(key) / "done.json")

    def all_done(self) -> list[Done]:
        """All results in the folder, whatever grid they belong to, in order of their keys."""
        found = sorted(self.folder.glob("nodes/*/done.json"))
        return [done for path in found if (done := _read_done(path)) is not None]

    def failure(self, key: str) -> str | None:
        """Why a node could not be made the last time; None if it did not fail."""
        found = _read(self.folder_of(key) / "failed.json")
        return None if found is None else str(found.get("problem"))

    def lock(self, key: str) -> BaseFileLock:
        """What the process that makes a node holds."""
        folder = self.folder_of(key)
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / "lock")

    def describe(self, node: Node) -> None:
        """Write down what a node is."""
        path = self.folder_of(node.key) / "node.json"
        if not path.is_file():
            needs = {role: need.key for role, need in node.needs.items()}
            about = {"kind": node.kind, "title": node.title, "settings": node.settings}
            write_json(path, about | {"needs": needs})

    def finish(self, node: Node, result: Mapping[str, Any], seconds: float, code: str) -> None:
        """Write the result of a node, after which it is made."""
        folder = self.folder_of(node.key)
        # A machine that loses power now must not keep the result and lose what it is of.
        _to_disk(folder)
        done = Done(
            node.key,
            node.kind,
            result,
            round(seconds, 3),
            node.title,
            socket.gethostname(),
            code,
            node.work,
            node.speed,
        )
        write_json(folder / "done.json", asdict(done))
        (folder / "failed.json").unlink(missing_ok=True)

    def fail(self, node: Node, problem: str, trace: str) -> None:
        """Write down why a node could not be made."""
        write_json(self.folder_of(node.key) / "failed.json", {"problem": problem, "trace": trace})

    @contextmanager
    def explain_full_disk(self) -> Iterator[None]:
        """Turn the errors of a full disk, whoever reports them, into a `FullDiskError`."""
        try:
            yield
        except Exception as error:
            if _is_full(error) or not _has_room(self.folder):
                raise FullDiskError(self.folder) from error
            raise


def title_of(run: Path) -> str | None:
    """What the node of a run's folder is called; None if the folder is in no ledger."""
    found = _read(run.parent / "node.json")
    return None if found is None else str(found.get("title"))


def _read(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is none (a machine may lose power at any time)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read_done(path: Path) -> Done | None:
    try:
        return Done(**(_read(path) or {}))
    except TypeError:
        return None


def _to_disk(folder: Path) -> None:
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
