"""Where numbers come from: versions, machine, wall time and peak memory of a run."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version

import torch

from w2sdefense.evaluation.metrics import Frozen
from w2sdefense.training.trainer import this_process
from w2sdefense.version import code_version

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors", "numpy")


class Provenance(Frozen):
    """Where the numbers come from."""

    versions: dict[str, str]  # package -> version
    machine: dict[str, str]  # system, CPU, cores, accelerators, load; processes and their threads
    started: str  # UTC time of the start, ISO 8601
    # wall time of the run in seconds, including training; for a resumed run, since its last start
    seconds: float
    peak_memory_mb: float  # peak resident memory of the process, in MiB


class Clock:
    """Measures a run: create it at the start, and call `provenance` at the end."""

    def __init__(self) -> None:
        self._started = datetime.now(UTC)
        self._start = time.perf_counter()

    def provenance(self) -> Provenance:
        """Versions, machine, wall time since the start and peak memory of the process so far."""
        return Provenance(
            versions={
                "python": platform.python_version(),
                **{name: version(name) for name in PACKAGES},
                "w2sdefense": code_version(),
            },
            machine=_machine(),
            started=self._started.isoformat(timespec="seconds"),
            seconds=round(time.perf_counter() - self._start, 2),
            peak_memory_mb=peak_memory_mb(),
        )


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux reports KiB, macOS bytes.
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def _machine() -> dict[str, str]:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    machine = {
        "system": platform.platform(terse=True),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "cores": str(os.cpu_count()),
        "processes": str(this_process().num_processes),
        "threads": str(torch.get_num_threads()),
        "load": f"{load:.2f}",
    }
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        machine["accelerators"] = ", ".join(names)
    return machine
