"""Settings of all tests, and the tiny models that they share."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before transformers is imported: no test reaches for a hub, and none draws bars into the log.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
# Tests run side by side, one process for each core, and their models are too small for threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings
from rich.console import Console

# A time limit per example would fail on a busy machine, not on a fault.
settings.register_profile("w2sdefense", deadline=None)
settings.load_profile("w2sdefense")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random causal language model."""
    from tiny import save_llama

    return save_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random bare encoder."""
    from tiny import save_bert

    return save_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def display():
    """A display that writes to memory."""
    from w2sdefense.cli.display import Display

    return Display(Console(file=io.StringIO()))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser, or a skipped test."""
    from browsing import start

    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
