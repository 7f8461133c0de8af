"""Commands in processes of their own, forked from one that imported torch already."""

import multiprocessing
import os
import resource
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["w2sdefense.distill.student", "w2sdefense.report"])


def start(
    words: tuple[str, ...],
    log: Path,
    full_after: float | None = None,
    limit: int = 0,
    prepare: Callable[[], None] | None = None,
) -> BaseProcess:
    """Start `w2s WORDS ...`.

    Args:
        words: The command and its arguments.
        log: Where its output goes.
        full_after: So many seconds later writes begin to fail as on a full disk; None never.
        limit: Bytes up to which a file may grow even then.
        prepare: Called in the process before the command.
    """
    process = PROCESSES.Process(target=_work, args=(words, log, full_after, limit, prepare))
    process.start()
    return process


def write_to(log: Path) -> None:
    """Send the output of this process to a file."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _work(
    words: tuple[str, ...],
    log: Path,
    full_after: float | None,
    limit: int,
    prepare: Callable[[], None] | None,
) -> None:
    write_to(log)
    from w2sdefense.cli.app import app

    if prepare is not None:
        prepare()
    if full_after is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limits = (resource.RLIMIT_FSIZE, (limit, hard))
        fill = threading.Timer(full_after, resource.setrlimit, limits)
        fill.daemon = True
        fill.start()
    app(list(words))
