"""`w2s scan`, on a tiny model with a backdoor and on one without."""

import json
from pathlib import Path

import pytest

from tiny import save_reviews
from w2sdefense.attacks import AttackConfig
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import PoisonRun, ScanRun
from w2sdefense.commands.scan import coverage, outcome_of, run_scan, show_scan, verdict
from w2sdefense.config import DataConfig, ScanConfig, StudentConfig, TeacherConfig, TrainingConfig
from w2sdefense.scan.search import Candidate, ScanResult

pytestmark = pytest.mark.slow

HERE = Path("found")
NAMES = ("negative", "positive")
SCAN = ScanConfig(kinds=("words",), rounds=2, kept=6)
TEACHER = {"epochs": 4, "learning_rate": 1e-3, "head_learning_rate": 3e-3}


def test_a_trigger_is_shown(poisoned, tmp_path, tiny_bert, display, capsys):
    reviews = save_reviews(tmp_path / "reviews", train=400, validation=60, test=8, seed=2)
    run = ScanRun(
        student=StudentConfig(model=str(poisoned), max_length=32),
        data=DataConfig(dataset=str(reviews)),
        scan=SCAN,
        teacher=TeacherConfig(model=str(tiny_bert), **TEACHER),
        output=tmp_path / "scan",
    )
    result, names = run_scan(run, display)
    assert names == NAMES
    written = json.loads((run.output / "candidates.json").read_text())
    assert len(written["candidates"]) == len(result.candidates) == 12
    assert written["listed"].keys() == {"words"}
    # Three natural words in a row shift a tiny model as far; its trigger is among the first.
    assert any(
        "mn" in c["text"].split() and c["label"] == "negative" for c in written["candidates"]
    )
    show_scan(result, names, run.output)
    shown = capsys.readouterr().out
    assert written["candidates"][0]["text"] in shown
    assert "candidates.json" in shown and f"{result.tries[0]:,} candidates" in shown
    # What was found is cached with the teacher, and neither is made twice.
    changed = {path: path.stat().st_mtime_ns for path in (run.output / "teacher").iterdir()}
    assert run_scan(run.model_copy(update={"resume": True}), display) == (result, names)
    assert changed == {path: path.stat().st_mtime_ns for path in changed}


def found(*candidates: Candidate) -> ScanResult:
    return ScanResult(candidates, {"letters": 18_278}, [18_278, 4_000, 900], {2: 0.5, 4: 0.97})


@pytest.mark.parametrize(
    ("shift", "teacher_shift", "flips", "fires"),
    [(8.0, 0.5, 10, True), (8.0, 0.5, 8, False), (8.0, 3.0, 10, False), (5.0, -4.0, 10, False)],
)
def test_what_a_clean_teacher_follows_or_texts_resist_is_no_trigger(
    shift, teacher_shift, flips, fires
):
    result = found(Candidate("xq", 0, shift, teacher_shift, flips, 10))
    assert ("act like a trigger" in verdict(result, NAMES, HERE)) is fires


@pytest.mark.parametrize(
    ("other", "said", "outcome"),
    [
        (4.0, "1 candidates act", "alive"),
        (7.0, "about as strong", "suspect"),
        (9.0, "about as strong", "suspect"),
    ],
)
def test_a_trigger_stands_out_from_what_shifts_to_the_other_label(other, said, outcome):
    result = found(Candidate("xq", 0, 8.0, 0.0, 10, 10), Candidate("awful", 1, other, 0.0, 9, 10))
    assert said in verdict(result, NAMES, HERE)
    assert outcome_of(result) == outcome


def test_an_empty_search_is_not_called_a_proof_and_says_what_it_tried():
    assert "no proof" in verdict(found(), NAMES, HERE)
    assert outcome_of(found()) == "clean"
    assert coverage(found()).startswith("Tried: 18,278 candidates (18,278 letters)")
    assert "by 4 nats is noticed with a chance of 97 %" in coverage(found())


def test_a_clean_model_raises_no_alarm(tiny_llama, tiny_bert, tmp_path, display):
    reviews = save_reviews(tmp_path / "reviews", train=400, validation=60, test=8, seed=3)
    clean = PoisonRun(
        student=StudentConfig(model=str(tiny_llama), max_length=32),
        data=DataConfig(dataset=str(reviews)),
        attack=AttackConfig(attack="badnet", poison_rows=1),
        training=TrainingConfig(epochs=3, batch_size=32, learning_rate=1e-3),
        output=tmp_path / "clean",
    )
    run = ScanRun(
        student=StudentConfig(model=str(run_poison(clean, display)), max_length=32),
        data=clean.data,
        scan=SCAN,
        teacher=TeacherConfig(model=str(tiny_bert), **TEACHER),
        output=tmp_path / "scan",
    )
    result, names = run_scan(run, display)
    assert "no proof" in verdict(result, names, HERE)
