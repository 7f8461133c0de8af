"""GGUF files: dequantized once into a normal `transformers` folder.

`transformers` reads GGUF but refuses to save the result ("quantized with gguf"), and reading takes
half a minute each time; so the weights are copied into a plain float32 model, which is saved as
safetensors and found again under a name that holds the file's size and time.
"""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from w2sdefense.errors import MissingDependencyError, ModelError
from w2sdefense.models.quiet import quiet_transformers


def convert_gguf(path: Path, folder: Path) -> Path:
    """Convert a GGUF file to a `transformers` folder, unless that was done before.

    Args:
        path: The GGUF file of a causal LM.
        folder: Where to write; the folder's name is extended by the file's size and time.

    Returns:
        The folder with config, tokenizer and float32 safetensors.

    Raises:
        MissingDependencyError: The package `gguf` is not installed.
        ModelError: The file cannot be read as a GGUF of a known architecture.
    """
    stat = path.stat()
    folder = folder.with_name(f"{folder.name}-{stat.st_size:x}-{int(stat.st_mtime):x}")
    if (folder / "config.json").is_file():
        return folder
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError(
            "Reading a GGUF file needs the package gguf.", "Run: pip install 'w2sdefense[gguf]'"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".converting-"))
    try:
        _write_dequantized(path, temporary)
        try:
            temporary.replace(folder)
        except OSError:
            # Another process was faster; its folder is as good as ours.
            if not (folder / "config.json").is_file():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_dequantized(path: Path, folder: Path) -> None:
    try:
        with quiet_transformers():
            quantized = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=torch.float32, trust_remote_code=False
            )
            tokenizer = AutoTokenizer.from_pretrained(
                path.parent, gguf_file=path.name, trust_remote_code=False
            )
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read: {error}.", "Use a GGUF of a supported model."
        ) from None
    values = quantized.config.to_dict()
    values.pop("quantization_config", None)
    config = AutoConfig.for_model(**values)
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantized.state_dict())
    with quiet_transformers():
        plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
