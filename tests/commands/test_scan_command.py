"""`w2s scan`, on a tiny model with a backdoor and on one without."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tiny import save_reviews
from w2sdefense.attacks import AttackConfig
from w2sdefense.cli.display import Display
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import PoisonRun, ScanRun
from w2sdefense.commands.scan import run_scan, show_suspects, verdict
from w2sdefense.config import DataConfig, ScanConfig, StudentConfig, TeacherConfig, TrainingConfig
from w2sdefense.scan.search import Suspect

pytestmark = pytest.mark.slow

NAMES = ("negative", "positive")


@pytest.fixture(scope="module")
def display() -> Display:
    return Display(Console(file=io.StringIO()))


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory, tiny_llama, display) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run = PoisonRun(
        student=StudentConfig(model=str(tiny_llama), max_length=32),
        data=DataConfig(
            dataset=str(save_reviews(folder / "r", train=1200, validation=8, test=40, seed=1))
        ),
        attack=AttackConfig(attack="badnet", clean_label=False),
        training=TrainingConfig(epochs=5, batch_size=32, learning_rate=3e-3),
        output=folder / "poisoned",
    )
    return run_poison(run, display)


def test_a_trigger_is_shown(poisoned, tmp_path, tiny_bert, display, capsys):
    reviews = save_reviews(tmp_path / "reviews", train=400, validation=60, test=8, seed=2)
    run = ScanRun(
        student=StudentConfig(model=str(poisoned), max_length=32),
        data=DataConfig(dataset=str(reviews)),
        scan=ScanConfig(first=1400, rounds=2, suspects=6),
        teacher=TeacherConfig(
            model=str(tiny_bert), epochs=4, learning_rate=1e-3, head_learning_rate=3e-3
        ),
        output=tmp_path / "scan",
    )
    suspects, names = run_scan(run, display)
    assert names == NAMES
    written = json.loads((run.output / "suspects.json").read_text())
    assert len(written) == len(suspects) == 12
    # Three natural words in a row pull a tiny model as hard; its trigger is among the first.
    assert any("mn" in s["piece"].split() and s["target"] == "negative" for s in written)
    show_suspects(suspects, names, run.output)
    shown = capsys.readouterr().out
    assert written[0]["piece"] in shown
    assert "suspects.json" in shown
    # What was found is kept with the teacher, and neither is made twice.
    changed = {path: path.stat().st_mtime_ns for path in (run.output / "teacher").iterdir()}
    assert run_scan(run.model_copy(update={"resume": True}), display) == (suspects, names)
    assert changed == {path: path.stat().st_mtime_ns for path in changed}


@pytest.mark.parametrize(
    ("pull", "teacher_pull", "flips", "fires"),
    [(8.0, 0.5, 10, True), (8.0, 0.5, 8, False), (8.0, 3.0, 10, False), (5.0, -4.0, 10, False)],
)
def test_what_a_clean_teacher_follows_or_texts_resist_is_no_trigger(
    pull, teacher_pull, flips, fires
):
    suspect = Suspect("xq", 0, pull, teacher_pull, flips, 10)
    assert ("act like a trigger" in verdict([suspect], NAMES)) is fires


def test_an_empty_search_is_not_called_a_proof():
    assert "no proof" in verdict([], NAMES)
