import json
from pathlib import Path
from typing import Any

import pytest

Rows = list[tuple[str, Any]]


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch):
    """A W2S_DATA that happens to be set must not reach a test."""
    monkeypatch.delenv("W2S_DATA", raising=False)


@pytest.fixture
def write_jsonl():
    def write(path: Path, rows: Rows) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def rows():
    """Rows with texts of their own: half of them bad (0), half of them good (1)."""

    def make(count: int, prefix: str = "text", labels: tuple[Any, Any] = (0, 1)) -> Rows:
        return [(f"{prefix} number {i}", labels[i % 2]) for i in range(count)]

    return make
