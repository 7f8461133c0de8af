"""Runs untrusted parts of a checkpoint (a chat template, a regular expression) within limits.

They run in a separate process, forked from this one. The system ends it when a call takes more than
`SECONDS` of CPU time or (on Linux) more than `ROOM` additional bytes. The process lives as long as
its `Bounded` object, unless a call exceeds a limit. Access to files and network is not limited;
templates run in a sandbox.
"""

from __future__ import annotations

import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Generic, TypeVar

from w2sdefense.errors import reason_of

T = TypeVar("T")

SECONDS = 5.0
ROOM = 2**30


class BoundedError(Exception):
    """A call failed, or took too much time or memory."""


class Bounded(Generic[T]):
    """A function that runs in a separate process, which the first call starts."""

    def __init__(self, function: Callable[..., T]) -> None:
        self._function = function
        self._pipe: Connection | None = None

    def __call__(self, *arguments: Any) -> T:
        """Call the function; raises a `BoundedError` if it fails or exceeds a limit."""
        if self._pipe is None:
            # A spawned process would import torch and transformers first.
            context = get_context("fork")
            self._pipe, other = context.Pipe()
            # daemon=True: it ends with this process.
            context.Process(
                target=_serve, args=(self._function, other, self._pipe), daemon=True
            ).start()
            other.close()
        try:
            self._pipe.send(arguments)
            done, value = self._pipe.recv()
        except (EOFError, OSError):
            self._pipe = None
            raise BoundedError(f"it takes more than {SECONDS:g} s or too much memory") from None
        if not done:
            raise BoundedError(value)
        return value  # type: ignore[no-any-return]


def _serve(function: Callable[..., Any], pipe: Connection, other: Connection) -> None:
    other.close()  # otherwise `recv` would not notice that the caller ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with suppress(OSError, ValueError):  # Linux only
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with suppress(EOFError, OSError):
        while True:
            arguments = pipe.recv()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            try:
                answer = True, function(*arguments)
            except Exception as error:  # noqa: BLE001
                answer = False, reason_of(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(answer)
