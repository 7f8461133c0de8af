"""Turns what a user names into a local folder that is safe to open; nothing is opened here.

Embedded models are unpacked, GGUF files converted and hub ids fetched (safetensors only), each
once.
"""

from __future__ import annotations

from pathlib import Path

from w2sdefense.errors import ModelError
from w2sdefense.models.embedded import EMBEDDED, cache_folder, embedded_folder
from w2sdefense.models.gguf import convert_gguf
from w2sdefense.models.safety import (
    ADAPTER_CONFIG,
    PICKLE_SUFFIXES,
    SAFE_DOWNLOADS,
    check_folder,
    refuse_pickle,
)


def resolve_model(spec: str) -> Path:
    """Turn what a user names into a local folder that is safe to open.

    Args:
        spec: An embedded name, a folder, a GGUF file, or a hub id such as `Qwen/Qwen2.5-1.5B`.

    Returns:
        A folder with config, tokenizer and safetensors weights.

    Raises:
        ModelError: Nothing is found under that name.
        UnsafeCheckpointError: What is found is a pickle.
    """
    if spec in EMBEDDED:
        return embedded_folder(spec)
    path = Path(spec).expanduser()
    if path.suffix in PICKLE_SUFFIXES:
        refuse_pickle(path)
    if path.suffix == ".gguf" and path.is_file():
        return convert_gguf(path.resolve(), cache_folder() / "models" / path.stem)
    if not path.is_dir():
        path = _download(spec)
    check_folder(path)
    return path


def resolve_whole_model(spec: str, fix: str) -> Path:
    """Resolve the name of a model that must not be an adapter.

    Args:
        spec: What `resolve_model` takes.
        fix: What to name instead of an adapter.

    Raises:
        ModelError: Nothing is found under that name, or it is an adapter.
        UnsafeCheckpointError: What is found is a pickle.
    """
    folder = resolve_model(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec} is an adapter.", fix)
    return folder


def _download(spec: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(spec, allow_patterns=list(SAFE_DOWNLOADS)))
    except HFValidationError:
        known = ", ".join(EMBEDDED)
        raise ModelError(
            f"There is no model {spec!r} here.",
            f"Name a folder, a GGUF file, a hub id, or: {known}.",
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"{spec!r} is neither a folder nor reachable as a hub id ({type(error).__name__}).",
            f"Check the name and the connection, or use an embedded model: {', '.join(EMBEDDED)}.",
        ) from None
