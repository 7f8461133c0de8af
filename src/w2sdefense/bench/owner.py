"""Who works on something: a process, and whether it is still there.

Another process of the same machine can be asked for. One of another machine cannot: whether it
still lives has to be seen from what it writes (`ledger.py`).
"""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Owner:
    """A process that owns a claim.

    Attributes:
        host: Name of its machine.
        place: What process numbers can be compared in: one start of one machine, one container.
        pid: Its number there.
        born: When the system says it was started, in the system's ticks; numbers are used again.
        token: Unlike that of any other claim.
    """

    host: str
    place: str
    pid: int
    born: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def this_process(cls) -> Owner:
        """The process that asks."""
        return cls(socket.gethostname(), _place(), os.getpid(), _born(os.getpid()) or "")

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Owner | None:
        """What `as_values` gave; None if it is anything else."""
        try:
            return cls(**values)
        except TypeError:
            return None

    def as_values(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def is_dead(self) -> bool | None:
        """Whether the process is gone; None if that cannot be asked from here."""
        if (self.host, self.place) != (socket.gethostname(), _place()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return _born(self.pid) != (self.born or None)


def _place() -> str:
    """The start of this machine and its process namespace, where the system has them."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _born(pid: int) -> str | None:
    """Start of a process; None if it is gone (a zombie is), or the system does not say."""
    try:
        # The name of the command may hold anything, so count from behind it.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
