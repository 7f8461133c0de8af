"""Which files of a checkpoint may be opened: safetensors and GGUF, never a pickle.

A suspect model is an untrusted file, and opening a pickle runs whatever code its author put there.
This module looks at names only; it opens nothing but JSON. It says nothing about backdoors in the
weights themselves.
"""

from __future__ import annotations

import json
from pathlib import Path

from w2sdefense.errors import ModelError, UnsafeCheckpointError

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})
"""File endings under which PyTorch and others keep pickles."""

SAFE_DOWNLOADS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")
"""What is fetched from a hub: weights that cannot run code, and text; never Python."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def check_folder(folder: Path) -> None:
    """Refuse a checkpoint folder whose weights could run code when opened.

    A pickle that lies beside safetensors weights is never opened and does no harm; a folder with
    nothing but pickles is refused, and so is an index or a config that sends the loader to a file
    that is not safetensors. An adapter must have its own weights as safetensors: its loader falls
    back to a pickle.

    Raises:
        ModelError: The folder does not exist or holds no weights.
        UnsafeCheckpointError: Only pickles are there, or other files are named.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.", "Check the path.")
    for index in folder.rglob("*.safetensors.index.json"):
        _check_index(index)
    _check_config(folder / "config.json")
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if any(folder.glob(ADAPTER_WEIGHTS if adapter else "*.safetensors")):
        return
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        refuse_pickle(folder / pickles[0])
    raise ModelError(
        f"{folder} holds no weights (*.safetensors).",
        "Name a folder written by save_pretrained, a .gguf file, or a hub id.",
    )


def refuse_pickle(path: Path) -> None:
    """Raise for a pickle, naming the way out.

    Raises:
        UnsafeCheckpointError: Always.
    """
    raise UnsafeCheckpointError(
        f"{path} is a pickle: opening it could run code that its author chose.",
        "Ask its publisher for safetensors or GGUF, or convert it on a machine without secrets: "
        "torch.load(path, weights_only=True), then safetensors.torch.save_file.",
    )


def _check_config(config: Path) -> None:
    """A config may name the file of weights; `transformers` lets one pickle through there."""
    try:
        named = json.loads(config.read_text(encoding="utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError):
        return  # no config, or none that the loader will accept
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise UnsafeCheckpointError(
            f"{config} sends the loader to {named!r}, which is not a safetensors file.",
            "Do not use this checkpoint.",
        )


def _check_index(index: Path) -> None:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{index} is not an index of shards: {error}.", "Fetch it again."
        ) from None
    # The loader opens whatever the index names, so a pickle or a path out of the folder could hide
    # here.
    strange = sorted(s for s in shards if Path(s).name != s or not s.endswith(".safetensors"))
    if strange:
        raise UnsafeCheckpointError(
            f"{index} sends the loader to {strange[0]!r}, not to a safetensors file beside it.",
            "Do not use this checkpoint.",
        )
