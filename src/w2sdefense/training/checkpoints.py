"""Checkpoints of a training: where they are, which one is whole, and when they go."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

CHECKPOINTS = "training"
"""Folder below a run's own that belongs to the Trainer: checkpoints, and the logs of a tracker."""


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a run whose results are written.

    Args:
        folder: Folder of the run, as given to `training_arguments`.
    """
    remove_in(folder / CHECKPOINTS)
    with contextlib.suppress(OSError):  # a tracker's logs are there, or nothing at all
        (folder / CHECKPOINTS).rmdir()


def last_whole_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None if there is none.

    The Trainer writes `trainer_state.json` last, so a checkpoint without a readable one was cut
    off.
    """
    found = sorted(
        folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=lambda p: int(p.name.rsplit("-", 1)[1])
    )
    return next((path for path in reversed(found) if _is_whole(path)), None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def remove_in(folder: Path, *, keep_whole: bool = False) -> None:
    """Remove the checkpoints in a folder, or those that were cut off only."""
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if not (keep_whole and _is_whole(path)):
            shutil.rmtree(path, ignore_errors=True)
