"""Launching a graph on this machine: in this process, or in several.

Several processes are several workers on one ledger (`work.py`); so are several machines on which
the same command is given, if they share the folder. They end with the process that started them.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess

from w2sdefense.bench.disk import FullDiskError
from w2sdefense.bench.graph import Node
from w2sdefense.bench.work import Job, Tell, failed, silently, unmade, work
from w2sdefense.errors import W2SError

WATCH_SECONDS = 0.5
_DISK_IS_FULL = 3
"""Exit code of a worker for which there was no room."""


class NodesFailedError(W2SError):
    """Some nodes could not be made; all others are."""


def run_here(job: Job, tell: Tell = silently) -> None:
    """Make all nodes in this process.

    Raises:
        NodesFailedError: Some could not be made.
        FullDiskError: There is no room for results.
    """
    work(job, tell)
    require_all(job)


def run_processes(job: Job, processes: int, tell: Tell = silently) -> None:
    """Make all nodes in several processes, each of which makes one at a time.

    Raises:
        NodesFailedError: Some could not be made, or all workers died.
        FullDiskError: There is no room for results.
    """
    # A fork would copy the threads' locks of a torch that is loaded already.
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_work, args=(job, os.getpid())) for _ in range(processes)]
    for worker in workers:
        worker.start()
    watcher = Watcher(job, tell)
    try:
        while any(worker.is_alive() for worker in workers):
            watcher.look()
            time.sleep(WATCH_SECONDS)
    finally:
        _end(workers)
    watcher.look()
    if any(worker.exitcode == _DISK_IS_FULL for worker in workers):
        raise FullDiskError(job.ledger.folder)
    require_all(job)


class Watcher:
    """Tells about nodes that other processes begin and finish, from what the ledger shows.

    Args:
        job: The nodes.
        tell: Who is told.
    """

    def __init__(self, job: Job, tell: Tell) -> None:
        self._job = job
        self._tell = tell
        self._open = unmade(job)
        self._begun: set[Node] = set()

    def look(self) -> None:
        """Tell what has changed since the last look."""
        ledger = self._job.ledger
        for node in list(self._open):
            done = ledger.done(node.key) is not None
            lost = not done and ledger.failure(node.key, self._job.session) is not None
            if node not in self._begun and (done or lost or ledger.owner(node.key)):
                self._begun.add(node)
                self._tell("start", node)
            if done or lost:
                self._open.remove(node)
                self._tell("done" if done else "failed", node)


def require_all(job: Job) -> None:
    """Insist that all nodes are made.

    Raises:
        NodesFailedError: Naming those that are not, with the first reason.
    """
    todo = unmade(job)
    if not todo:
        return
    blamed = [node for node in todo if job.ledger.failure(node.key, job.session) is not None]
    if not blamed:
        raise NodesFailedError(
            f"{len(todo)} of {len(job.nodes)} nodes were not made: their workers died (killed, or "
            "out of memory?).",
            "Give the same command again; use fewer --jobs if memory is short.",
        )
    first = blamed[0]
    after = len(failed(job, todo)) - len(blamed)
    where = job.ledger.failure_file(first.key, job.session)
    raise NodesFailedError(
        f"{len(blamed)} nodes failed, {after} that are made from them were left out. "
        f"{first.title or first.key}: {job.ledger.failure(first.key, job.session)}",
        f"Mend it (all of it is in {where}) and give the same command again.",
    )


def _work(job: Job, parent: int) -> None:
    """One worker process."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    with suppress(KeyboardInterrupt):
        try:
            work(job)
        except FullDiskError:
            raise SystemExit(_DISK_IS_FULL) from None


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: nobody would know that it still works."""
    while os.getppid() == parent:
        time.sleep(WATCH_SECONDS)
    os._exit(1)


def _end(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join()
