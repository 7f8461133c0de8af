"""Run folders for the tests of the report."""

from pathlib import Path

import pytest
from synthetic_runs import SaveRun, saver


@pytest.fixture
def save_run(tmp_path: Path) -> SaveRun:
    """Writes one run folder and returns it."""
    return saver(tmp_path)


@pytest.fixture
def folders(save_run: SaveRun) -> list[Path]:
    """Poisoned, LoRA, W2SDefense: the usual three."""
    return [save_run("poisoned", 0.99), save_run("lora", 0.98), save_run("w2s", 0.01, 0.11)]
