"""The ledger: a folder that any number of processes, on any number of machines, write at once.

    nodes/KEY/node.json      what the node is: kind, settings, what it is made from
    nodes/KEY/claims/N/      who works on it; the highest N counts
    nodes/KEY/failed/RUN.json  why it could not be made in one run of the command
    nodes/KEY/done.json      its result; written last: a node that has it is complete
    nodes/KEY/NAME/          what the stage itself writes (record, weights, checkpoints)

Nothing is locked. A claim is a folder that is prepared under another name and renamed to the next
number, which the file system lets only one process do. A claim whose owner is gone, or has given
no sign of life for a while, is not removed: the next number stands above it, and whoever was
thought dead sees that and stops. Every file is written whole or not at all (`io.py`).

What a node is and how it is made is not known here. The folder must be the same for all machines.
"""

from __future__ import annotations

import _thread
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from w2sdefense.bench.disk import explain_full_disk, to_disk
from w2sdefense.bench.graph import Node
from w2sdefense.bench.owner import Owner
from w2sdefense.io import write_json

LEASE_SECONDS = 180.0
"""A claim of another machine without a sign of life for so long is taken over. Shared file systems
may show a sign a minute late."""

_FAILED = "failed"

_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT})
"""Another process had the number first, or finished the node and removed its claims."""


class LostClaimError(Exception):
    """Another process has taken the node over, because this one gave no sign of life."""


@dataclass(frozen=True)
class Done:
    """A node that is made.

    Attributes:
        key: Its key.
        kind: Its kind.
        result: What its function returned.
        seconds: How long the function took, the last time it was called.
        likeness: That of the node.
        title: That of the node.
        host: The machine it was made on.
    """

    key: str
    kind: str
    result: Mapping[str, Any]
    seconds: float
    likeness: str
    title: str
    host: str


class Ledger:
    """The results of an experiment.

    Args:
        folder: Where they are kept; made if missing.
        lease: Seconds without a sign of life after which a claim may be taken over.
    """

    def __init__(self, folder: Path, lease: float = LEASE_SECONDS) -> None:
        # What is made from a result names it by its path, which must not depend on where one is.
        self.folder = folder.absolute()
        self.lease = lease
        self._signs: dict[Path, tuple[int, float]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Ledger, (self.folder, self.lease)

    def folder_of(self, key: str) -> Path:
        """The folder of a node."""
        return self.folder / "nodes" / key

    def done(self, key: str) -> Done | None:
        """The result of a node, if it is made."""
        return _read_done(self.folder_of(key) / "done.json")

    def all_done(self) -> list[Done]:
        """All results in the folder, whatever experiment they belong to, in order of their keys."""
        found = sorted(self.folder.glob("nodes/*/done.json"))
        return [done for path in found if (done := _read_done(path)) is not None]

    def failure(self, key: str, session: str | None = None) -> str | None:
        """Why a node could not be made the last time (in one session); None if it did not fail."""
        path = self.failure_file(key, session)
        found = None if path is None else _read(path)
        return None if found is None else str(found.get("problem"))

    def failure_file(self, key: str, session: str | None = None) -> Path | None:
        """Where all of it is written down: the problem and its traceback."""
        folder = self.folder_of(key) / _FAILED
        if session is not None:
            path = folder / f"{session}.json"
            return path if path.is_file() else None
        return max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, default=None)

    def owner(self, key: str) -> Owner | None:
        """Who works on a node; None if nobody does, as far as can be told from here."""
        claims = self.folder_of(key) / "claims"
        number = _latest(claims)
        if number == 0 or self._is_free(claims / str(number)):
            return None
        return _owner_of(claims / str(number))

    def claim(self, node: Node) -> Claim | None:
        """Take a node to work on; None if another process has it.

        Raises:
            FullDiskError: There is no room to write the claim.
            OSError: The folder cannot be written for another reason.
        """
        claims = self.folder_of(node.key) / "claims"
        number = _latest(claims)
        if number and not self._is_free(claims / str(number)):
            return None
        owner = Owner.this_process()
        prepared = claims / f".{owner.token}"
        with explain_full_disk(self.folder):
            try:
                prepared.mkdir(parents=True)
                write_json(prepared / "owner.json", owner.as_values())
                # Fails if the name is taken: a claim is never empty.
                prepared.rename(claims / str(number + 1))
            except OSError as error:
                shutil.rmtree(prepared, ignore_errors=True)
                if error.errno not in _TAKEN:
                    raise
                return None
        claim = Claim(claims, number + 1, owner, self.lease)
        if not claim.is_held():
            return None
        if self.done(node.key) is not None:
            # It was finished between the look at it and the claim.
            claim.release()
            return None
        return claim

    def describe(self, node: Node) -> None:
        """Write down what a node is."""
        path = self.folder_of(node.key) / "node.json"
        if not path.is_file():
            write_json(
                path,
                {
                    "kind": node.kind,
                    "title": node.title,
                    "settings": node.settings,
                    "needs": {role: need.key for role, need in node.needs.items()},
                },
            )

    def finish(self, node: Node, claim: Claim, result: Mapping[str, Any], seconds: float) -> None:
        """Write the result of a node, after which it is made.

        Raises:
            LostClaimError: It is not this process's to finish any more.
        """
        if not claim.is_held():
            raise LostClaimError(node.key)
        folder = self.folder_of(node.key)
        values = {
            "key": node.key,
            "kind": node.kind,
            "title": node.title,
            "likeness": node.likeness,
            "seconds": round(seconds, 3),
            "host": claim.owner.host,
            "result": result,
        }
        with explain_full_disk(self.folder):
            # A machine that loses power now must not keep the result and lose what it is of.
            to_disk(folder)
            write_json(folder / "done.json", values)
        for rest in (_FAILED, "claims"):
            shutil.rmtree(folder / rest, ignore_errors=True)

    def fail(self, node: Node, claim: Claim, session: str, problem: str, trace: str) -> None:
        """Write down why a node could not be made, and give it back."""
        values = {"problem": problem, "trace": trace}
        try:
            with explain_full_disk(self.folder):
                write_json(self.folder_of(node.key) / _FAILED / f"{session}.json", values)
        finally:
            claim.release()

    def _is_free(self, claim: Path) -> bool:
        """Whether a claim was given back, or its owner is gone."""
        if (claim / "released").exists():
            return True
        owner = _owner_of(claim)
        dead = None if owner is None else owner.is_dead()
        return self._is_silent(claim) if dead is None else dead

    def _is_silent(self, claim: Path) -> bool:
        """Whether the owner has given no sign for as long as the lease, by our own clock.

        Clocks of machines differ, so a time is only ever compared with the one seen before.
        """
        try:
            sign = (claim / "owner.json").stat().st_mtime_ns
        except OSError:
            sign = 0
        now = time.monotonic()
        seen, since = self._signs.get(claim, (None, now))
        if seen != sign:
            self._signs[claim] = (sign, now)
            return False
        return now - since > self.lease


class Claim:
    """The right to work on a node, for as long as signs of life are given.

    Args:
        folder: Folder of the claims of the node.
        number: Number of this one.
        owner: Whose it is.
        lease: Seconds without a sign of life after which others may take the node over.
    """

    def __init__(self, folder: Path, number: int, owner: Owner, lease: float) -> None:
        self.owner = owner
        self._folder = folder
        self._number = number
        self._lease = lease
        self._over = threading.Event()
        self._lost = False

    def is_held(self) -> bool:
        """Whether the node is still this process's."""
        return (
            _latest(self._folder) == self._number
            and _owner_of(self._folder / str(self._number)) == self.owner
        )

    def release(self) -> None:
        """Give the node back. On a full disk it is given back by the end of the process."""
        with suppress(OSError):
            (self._folder / str(self._number) / "released").touch()

    def __enter__(self) -> Self:
        """Give signs of life from now on; the main thread is interrupted if they come too late."""
        self._thread = threading.Thread(target=self._give_signs, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        if self._lost and (error is None or isinstance(error, KeyboardInterrupt)):
            raise LostClaimError(self._folder.parent.name) from None

    def _give_signs(self) -> None:
        while not self._over.wait(self._lease / 6):
            try:
                os.utime(self._folder / str(self._number) / "owner.json")
                held = self.is_held()
            except OSError:
                # A shared file system may be away for a moment; the lease is longer than that.
                continue
            if not held and not self._over.is_set():
                self._lost = True
                _thread.interrupt_main()
                return


def _latest(claims: Path) -> int:
    try:
        return max((int(name) for name in os.listdir(claims) if name.isdecimal()), default=0)
    except FileNotFoundError:
        return 0


def title_of(run: Path) -> str | None:
    """What the node of a run's folder is called; None if the folder is in no ledger."""
    found = _read(run.parent / "node.json")
    return None if found is None else str(found.get("title"))


def _owner_of(claim: Path) -> Owner | None:
    values = _read(claim / "owner.json")
    return None if values is None else Owner.from_values(values)


def _read(path: Path) -> dict[str, Any] | None:
    """The mapping in a JSON file; None if there is none (a machine may lose power at any time)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _read_done(path: Path) -> Done | None:
    values = _read(path)
    try:
        return None if values is None else Done(**values)
    except TypeError:
        return None
