"""Run folders for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import SaveRun, make_features, make_record, make_samples

from w2sdefense.evaluation.record import Sample, save_record


@pytest.fixture
def save_run(tmp_path: Path) -> SaveRun:
    """Writes one run folder and returns it."""

    def save(
        place: str,
        fires: float,
        errs: float = 0.1,
        *,
        name: str | None = None,
        count: int = 240,
        samples: list[Sample] | None = None,
        features: bool = True,
        **changes: Any,
    ) -> Path:
        folder = tmp_path / place
        samples = samples or make_samples(count, fires, errs)
        vectors = make_features(samples) if features else None
        save_record(folder, make_record(name or place, samples, **changes), samples, vectors)
        return folder

    return save


@pytest.fixture
def folders(save_run: SaveRun) -> list[Path]:
    """Poisoned, LoRA, W2SDefense: the usual three."""
    return [save_run("poisoned", 0.99), save_run("lora", 0.98), save_run("w2s", 0.01, 0.11)]
