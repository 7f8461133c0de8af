"""The nodes of a grid, and the folder with their results, which several grids can share.

A node is one unit of work: a poisoned victim, a teacher, or a defended and measured model. Its key
is the hash of everything that affects its result: its settings and the keys of the nodes that it
needs. Two rows of a table with the same victim therefore share one node.

    nodes/KEY/node.json    kind, settings and needed nodes
    nodes/KEY/lock         held by the process that runs the node
    nodes/KEY/failed.json  the error of the last attempt
    nodes/KEY/done.json    the result; written last, so a node with this file is complete
    nodes/KEY/NAME/        output of the stage (record, weights, checkpoints)

Writes are atomic (`io.py`). The operating system releases the lock when its process ends. Several
commands may share a ledger, on one machine or on a file system with locks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock
from pydantic import TypeAdapter

from w2sdefense.errors import W2SError
from w2sdefense.io import read_json, readable, write_json

FORMAT = 2
"""Part of every key. Increase it when nodes compute something else from the same settings."""

KEY_LENGTH = 16


@dataclass(frozen=True)
class Node:
    """One unit of work."""

    kind: str  # the stage that runs it ("poison", "teach", "defend")
    settings: Mapping[str, Any]  # settings of that stage, as plain values
    # what affects the result, as plain values; too much repeats work, too little mixes up results
    identity: Mapping[str, Any]
    # the nodes that it needs, by role ("victim", "teacher")
    needs: Mapping[str, Node] = field(default_factory=dict)
    title: str = ""  # for display
    work: float = 0.0  # amount of work in tokens, for estimates
    speed: str = ""  # nodes with the same value take about the same time per unit of work
    key: str = field(init=False)

    def __post_init__(self) -> None:
        made_from = {role: node.key for role, node in self.needs.items()}
        object.__setattr__(self, "key", f"{self.kind}-{digest([FORMAT, self.identity, made_from])}")

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.key == self.key


def digest(value: Any) -> str:
    """A short hash of plain values, the same on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def in_order(wanted: Iterable[Node]) -> list[Node]:
    """The nodes and all nodes that they need, without duplicates, every node after its needs."""
    found: dict[str, Node] = {}

    def add(node: Node) -> None:
        if node.key not in found:
            for need in node.needs.values():
                add(need)
            found[node.key] = node

    for node in wanted:
        add(node)
    return list(found.values())


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

_LITTLE = 2**20  # a disk with fewer free bytes counts as full


class FullDiskError(W2SError):
    """The disk is full."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"The disk of {folder} is full; finished results are kept.",
            "Free some space and rerun the command.",
        )


@dataclass(frozen=True)
class Done:
    """The result of a finished node, the content of `done.json`."""

    key: str
    kind: str
    result: Mapping[str, Any]  # the return value of its stage
    seconds: float  # duration of the last call of the stage
    title: str
    host: str  # name of the machine that ran it
    code: str = ""  # version of the code that ran it; empty in ledgers that did not record it
    work: float = 0.0
    speed: str = ""


class Ledger:
    """The folder with the results of nodes; created when something is written."""

    def __init__(self, folder: Path) -> None:
        # Nodes refer to each other by path, which must not depend on the working directory.
        self.folder = folder.absolute()

    def folder_of(self, key: str) -> Path:
        """The folder of a node."""
        return self.folder / "nodes" / key

    def done(self, key: str) -> Done | None:
        """The result of a node; None if it has not finished."""
        return _read_done(self.folder_of(key) / "done.json")

    def all_done(self) -> list[Done]:
        """All results in the folder, of all grids, sorted by key."""
        found = sorted(self.folder.glob("nodes/*/done.json"))
        return [done for path in found if (done := _read_done(path)) is not None]

    def failure(self, key: str) -> str | None:
        """The error of the last attempt at a node; None if it did not fail."""
        found = _read(self.folder_of(key) / "failed.json")
        return None if found is None else str(found.get("problem"))

    def lock(self, key: str) -> BaseFileLock:
        """The lock for the process that runs a node."""
        folder = self.folder_of(key)
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / "lock")

    def describe(self, node: Node) -> None:
        """Write `node.json` unless it exists."""
        path = self.folder_of(node.key) / "node.json"
        if not path.is_file():
            needs = {role: need.key for role, need in node.needs.items()}
            about = {"kind": node.kind, "title": node.title, "settings": node.settings}
            write_json(path, about | {"needs": needs})

    def finish(self, node: Node, result: Mapping[str, Any], seconds: float, code: str) -> None:
        """Write the result of a node, which completes it."""
        folder = self.folder_of(node.key)
        # After a power failure, a result must not exist without the files that it describes.
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
        """Write the error of a failed node."""
        write_json(self.folder_of(node.key) / "failed.json", {"problem": problem, "trace": trace})

    @contextmanager
    def explain_full_disk(self) -> Iterator[None]:
        """Convert errors that a full disk causes, from any library, to a `FullDiskError`."""
        try:
            yield
        except Exception as error:
            if _is_full(error) or not _has_room(self.folder):
                raise FullDiskError(self.folder) from error
            raise


def title_of(run: Path) -> str | None:
    """The title of the node that a run's folder belongs to; None outside a ledger."""
    found = _read(run.parent / "node.json")
    return None if found is None else str(found.get("title"))


def _read(path: Path) -> dict[str, Any] | None:
    """Read a mapping from a JSON file; None if it is missing or damaged (power failure)."""
    return readable(lambda: read_json(path))


def _read_done(path: Path) -> Done | None:
    return readable(lambda: TypeAdapter(Done).validate_python(read_json(path)))


def _to_disk(folder: Path) -> None:
    """Flush all files of a folder to disk; other processes may remove some of them meanwhile."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())


def _has_room(folder: Path) -> bool:
    """Whether the disk has free space; torch reports a full disk only as a failed write."""
    try:
        return shutil.disk_usage(folder).free > _LITTLE
    except OSError:
        return True


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        # Native libraries report the message of the error without its number.
        if any(os.strerror(number) in str(error) for number in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
