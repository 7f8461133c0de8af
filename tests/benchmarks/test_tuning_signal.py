"""The correlation of signals with ASR: known coefficients, and rows from real tiny runs."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest

import tuning_signal
from tiny import save_reviews
from w2sdefense.attacks import AttackConfig, TestConfig
from w2sdefense.commands.defend import run_defense
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun, TeachRun
from w2sdefense.commands.teach import run_teach
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    ScanConfig,
    SignalConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.data.load import load_dataset
from w2sdefense.io import write_json


def test_a_signal_that_follows_asr_and_one_that_does_not():
    rng = random.Random(0)
    rows = [
        {"asr": value / 40, "good": value**3, "bad": rng.random(), "flat": 1.0}
        for value in range(40)
    ]
    good = tuning_signal.correlations(rows, "good")
    assert good["spearman"] == pytest.approx(1.0)
    assert 0.85 < good["pearson"] < 1.0
    assert good["n"] == 40
    low, high = good["spearman_interval"]
    assert low == pytest.approx(1.0) and high == pytest.approx(1.0)
    bad = tuning_signal.correlations(rows, "bad")
    low, high = bad["pearson_interval"]
    assert low < bad["pearson"] < high
    assert low < 0 < high
    flat = tuning_signal.correlations(rows, "flat")
    assert (flat["spearman"], flat["spearman_interval"]) == (None, None)


def test_a_model_is_left_out_that_lags_behind_the_best_of_its_own_victim(tmp_path):
    accuracies = {"easy": (0.9, 0.8, 0.86), "hard": (0.7, 0.66, 0.5)}
    rows = [
        {"victim": victim, "run": str(ca), "ca": ca, "asr": ca, "floor": 0.1}
        | {f"{share}_interval": [0.0, 1.0] for share in ("ca", "asr", "floor")}
        | dict.fromkeys(tuning_signal.SIGNALS, ca)
        for victim, values in accuracies.items()
        for ca in values
    ]
    tuning_signal.write_results(rows, tmp_path)
    found = json.loads((tmp_path / "tuning_signal.json").read_text())["correlations"]
    counts = {row["models"]: row["n"] for row in found}
    assert counts == {
        "all models": 6,
        "CA within 5 points of the victim's best": 4,
        "victim easy": 2,
        "victim hard": 2,
    }


def test_victims_of_one_trigger_and_dataset_are_told_apart(tmp_path, monkeypatch):
    records = {}
    for victim, run in product("ab", ("poisoned", "lora", "w2s")):
        config = {
            "student": {"model": str(tmp_path / victim / "poisoned")},
            "data": {"dataset": "reviews/sst2"},
            "test": {"trigger": "badnet"},
        }
        folder = tmp_path / victim / run
        folder.mkdir(parents=True)
        (folder / "record.json").touch()
        stage = "poison" if run == "poisoned" else "defend"
        records[folder] = SimpleNamespace(stage=stage, config=config)
    monkeypatch.setattr(tuning_signal, "load_record", records.get)
    groups = tuning_signal.groups_of(list(records))
    assert [(group.title, len(group.runs)) for group in groups] == [
        ("badnet on sst2", 3),
        ("badnet on sst2 (2)", 3),
    ]


def test_a_victim_of_the_kept_table_is_one():
    kept = Path(tuning_signal.__file__).parent / "results" / "tuning_signal.json"
    models = json.loads(kept.read_text(encoding="utf-8"))["models"]
    poisoned = Counter(row["victim"] for row in models if row["run"] == "poisoned")
    assert poisoned == dict.fromkeys((row["victim"] for row in models), 1)


def test_runs_become_tables(tmp_path, tiny_llama, tiny_bert, display, monkeypatch):
    data = DataConfig(dataset=str(save_reviews(tmp_path / "r", train=240, validation=60, test=20)))
    student = StudentConfig(model=str(tiny_llama), max_length=32)
    poisoned = tmp_path / "toy" / "poisoned"
    run_poison(
        PoisonRun(
            student=student,
            data=data,
            attack=AttackConfig(attack="badnet", clean_label=False),
            training=TrainingConfig(epochs=4, batch_size=32, learning_rate=3e-3),
            output=poisoned,
        ),
        display,
    )
    teacher = TeacherConfig(model=str(tiny_bert), epochs=2, learning_rate=1e-3)
    run_teach(
        TeachRun(student=student, data=data, teacher=teacher, output=tmp_path / "teacher"), display
    )
    for rate in (1e-3, 1e-4):
        run_defense(
            DefendRun(
                student=student.model_copy(update={"model": str(poisoned)}),
                data=data,
                defense="lora",
                adapter=AdapterConfig(lora_r=4),
                training=TrainingConfig(epochs=1, learning_rate=rate),
                test=TestConfig(trigger="badnet", target="negative"),
                output=tmp_path / "toy" / f"lora-{rate}",
            ),
            display,
        )
    monkeypatch.setattr(
        tuning_signal, "SCAN", ScanConfig(suspects=3, first=60, rounds=1, children=8)
    )
    monkeypatch.setattr(tuning_signal, "SIGNAL", SignalConfig(pieces=3, texts=4, seed=7))
    (tmp_path / "toy" / "unfinished").mkdir()
    other = tmp_path / "other"
    write_json(other / "made_from.json", {"train": "other rows"})
    tuning_signal.main(
        sorted((tmp_path / "toy").iterdir()),
        teacher=[other, tmp_path / "teacher"],
        cache=tmp_path / "cache",
        results=tmp_path / "results",
    )
    found = json.loads((tmp_path / "results" / "tuning_signal.json").read_text())
    assert [row["run"] for row in found["models"]] == [
        "lora-0.0001 r 4",
        "lora-0.001 r 4",
        "poisoned",
    ]
    for row in found["models"]:
        assert 0 <= row["exposure"] <= row["worst suspect"] <= 1
        assert row["n_asr"] == 10
    assert {row["n"] for row in found["correlations"] if row["models"] == "all models"} == {3}
    table = (tmp_path / "results" / "tuning_signal.md").read_text()
    assert "badnet on r" in table and "Spearman" in table
    with pytest.raises(ValueError, match="No teacher was made"):
        tuning_signal.teacher_of(load_dataset(data), [other])
    with pytest.raises(ValueError, match="none of the runs is a defense"):
        tuning_signal.groups_of([poisoned])
