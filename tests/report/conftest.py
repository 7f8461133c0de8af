"""Run folders for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_runs import SaveRun, saver

from w2sdefense.report import maps


@pytest.fixture(autouse=True)
def quick_maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two features in place of t-SNE, which takes seconds a map and has its own test."""
    if request.module.__name__ != "test_maps":
        monkeypatch.setattr(maps, "_embed", lambda features: features[:, :2])


@pytest.fixture
def save_run(tmp_path: Path) -> SaveRun:
    """Writes one run folder and returns it."""
    return saver(tmp_path)


@pytest.fixture
def folders(save_run: SaveRun) -> list[Path]:
    """Poisoned, LoRA, W2SDefense: the usual three."""
    return [save_run("poisoned", 0.99), save_run("lora", 0.98), save_run("w2s", 0.01, 0.11)]
