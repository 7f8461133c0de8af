"""What has to be made for a grid, under which key, and the folder with the results of all grids.

A node is one thing that is made once: a poisoned victim, a teacher, a defended and measured model.
Its key is the hash of everything that decides its result: its own settings and the keys of what it
is made from. Two rows of a table that need the same victim therefore share one node.

    nodes/KEY/node.json    what the node is: kind, settings, what it is made from
    nodes/KEY/lock         held by the process that makes the node
    nodes/KEY/failed.json  why it could not be made the last time
    nodes/KEY/done.json    its result; written last: a node that has it is complete
    nodes/KEY/NAME/        what the stage itself writes (record, weights, checkpoints)

Every file of the ledger is written whole or not at all (`io.py`). The lock is the operating
system's: it goes when its process does. Several commands may share a ledger, on one machine or on a
file system with locks.
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
"""Raised when what a node does with the same settings changes: older results are then not used."""

KEY_LENGTH = 16


@dataclass(frozen=True)
class Node:
    """One thing to make."""

    kind: str  # which function makes it ("poison", "teach", "defend")
    settings: Mapping[str, Any]  # what that function is given, as plain values
    # what of the settings decides the result, as plain values; more of it than needed repeats work,
    # less of it mixes results up
    identity: Mapping[str, Any]
    # what it is made from, by role ("victim", "teacher")
    needs: Mapping[str, Node] = field(default_factory=dict)
    title: str = ""  # what it is, for people
    work: float = 0.0  # how much there is to do, in tokens through the student; for estimates
    speed: str = ""  # nodes of the same name here do about as much of it in a second
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
    """The nodes and all that they are made from, each once, nothing before what it needs."""
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

_LITTLE = 2**20  # bytes on a disk that is as good as full


class FullDiskError(W2SError):
    """There is no room for results."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"The disk of {folder} is full; finished results are kept.",
            "Free some space and rerun the command.",
        )


@dataclass(frozen=True)
class Done:
    """A node that is made, as `done.json` says it."""

    key: str
    kind: str
    result: Mapping[str, Any]  # what its function returned
    seconds: float  # how long the function took, the last time it was called
    title: str
    host: str  # the machine it was made on
    code: str = ""  # version of the code that made it; empty if older than versions
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
    return readable(lambda: read_json(path))


def _read_done(path: Path) -> Done | None:
    return readable(lambda: TypeAdapter(Done).validate_python(read_json(path)))


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
