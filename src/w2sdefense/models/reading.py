"""The boundary to untrusted checkpoints: whatever a library raises there becomes a `ModelError`.

A mangled file makes transformers, PEFT, safetensors and tokenizers raise whatever their code
stumbles over, so no exception is listed by name: a block that reads a checkpoint, and nothing else,
stands in `reading`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from w2sdefense.errors import ModelError, W2SError

LONGEST_REASON = 300


@contextmanager
def reading(
    what: str | Path,
    how: str = "cannot be read",
    fix: str = "Fetch it again, or name another one.",
) -> Iterator[None]:
    """Turn every error inside the block into one that names the checkpoint and the fix.

    Args:
        what: What is read: a file, or what the user called the checkpoint.
        how: What is wrong with it then.
        fix: What to do about it.

    Raises:
        ModelError: The block raised; one of our own errors, and a GPU without room, pass as is.
    """
    try:
        yield
    except (W2SError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        # A panic of the Rust libraries is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"{what} {how}: {_reason(error)}.", fix) from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = "".join(c for c in lines[0] if c.isprintable()) if lines else ""
    # Of a KeyError the text alone says nothing.
    if not text or isinstance(error, LookupError | AttributeError | TypeError):
        text = f"{type(error).__name__} {text}".strip()
    return text[:LONGEST_REASON].rstrip(".: ")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file of a checkpoint.

    Raises:
        ModelError: It is missing, no JSON, nested too deeply, or no mapping.
    """
    with reading(path):
        values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ModelError(f"{path} holds no JSON mapping.", "Fetch it again, or name another one.")
    return values


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars, and nothing below an error, from transformers inside the block.

    A fresh head is either wanted or refused before, and we show our own progress.
    """
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
