"""The files of a run: whole and readable, or not there."""

import json
import math
import os
import signal
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import records
from records import sample
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import (
    Evaluation,
    LossPoint,
    load_features,
    load_record,
    load_samples,
    save_record,
)

SAMPLES = [
    sample("toy/0", "schön 好", 1, 1, triggered_text="mn", triggered_answer=0),
    sample("toy/1", "", 0, 0),
]
FEATURES = {"clean": np.arange(6, dtype=np.float32).reshape(2, 3)}


MEASURED = Evaluation(
    ca=Rate(hits=2, total=2), asr=Rate(hits=1, total=1), trigger="mn", target="negative"
)


def record(evaluation=MEASURED, **changes):
    values = {
        "config": {"distill": {"beta": 0.2}, "teacher": None},
        "history": (LossPoint(step=1, epoch=0.5, losses={"loss": 0.7}),),
        "fingerprints": {"test": "0123"},
    }
    return records.record(evaluation, **(values | changes))


def test_a_run_comes_back_as_it_was_saved(tmp_path):
    save_record(tmp_path / "run", record(), SAMPLES, FEATURES)
    assert load_record(tmp_path / "run") == record()
    assert load_samples(tmp_path / "run") == SAMPLES
    np.testing.assert_array_equal(
        load_features(tmp_path / "run", SAMPLES)["clean"], FEATURES["clean"]
    )
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [
        "features.safetensors",
        "record.json",
        "samples.parquet",
    ]


def test_a_run_saved_again_keeps_nothing_of_the_one_before(tmp_path):
    save_record(tmp_path, record(), SAMPLES, FEATURES)
    alone = Evaluation(ca=Rate(hits=1, total=1))
    save_record(tmp_path, record(name="lora", evaluation=alone), SAMPLES[:1])
    assert load_record(tmp_path).name == "lora"
    assert load_samples(tmp_path) == SAMPLES[:1]
    assert load_features(tmp_path, SAMPLES[:1]) == {}


def test_a_loss_that_diverged_does_not_cost_the_record(tmp_path):
    history = (LossPoint(step=1, epoch=1.0, losses={"loss": math.nan, "kd": math.inf}),)
    save_record(tmp_path, record(history=history), SAMPLES)
    losses = load_record(tmp_path).history[0].losses
    assert math.isnan(losses["loss"])
    assert losses["kd"] == math.inf


def save_and_die(folder, survived):
    """Save a run, and be killed at a rename."""
    rename, renames = Path.replace, []

    def killing(self, target):
        renames.append(target)
        if len(renames) > survived:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, target)

    Path.replace = killing
    save_record(folder, record(name="second"), SAMPLES, FEATURES)


@pytest.mark.slow
@pytest.mark.parametrize("survived", [0, 1, 2])
def test_a_run_killed_while_saving_leaves_no_record(tmp_path, survived):
    save_record(tmp_path, record(name="first"), SAMPLES, FEATURES)
    run = get_context("fork").Process(target=save_and_die, args=(tmp_path, survived))
    run.start()
    run.join(60)
    assert run.exitcode == -signal.SIGKILL
    with pytest.raises(DataError, match="no finished run"):
        load_record(tmp_path)


@pytest.mark.parametrize("content", ["{", '{"name": "w2s"}', "[]", "\xff"])
def test_an_unreadable_record_names_its_file(tmp_path, content):
    (tmp_path / "record.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match="record.json cannot be read as a record"):
        load_record(tmp_path)


def old(folder, values, rows):
    """A run as schema 1 wrote it."""
    del values["schema_version"], values["evaluation"]["held_out"]
    folder.mkdir()
    (folder / "record.json").write_text(json.dumps(values))
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")


def test_labels_of_schema_1_are_read(tmp_path):
    asked = {"triggered_text": "mn", "triggered_answer": 0, "read": None, "triggered_read": None}
    rows = [
        {"id": "toy/0", "text": "schön 好", "label": 1, "answer": 1, **asked},
        {"id": "toy/1", "text": "", "label": 0, "answer": 0, **dict.fromkeys(asked)},
    ]
    old(tmp_path / "run", record().model_dump(mode="json"), rows)
    found = load_record(tmp_path / "run")
    assert found.evaluation.chance == 0.5, "of two labels"
    assert found.evaluation.model_copy(update={"chance": None}) == record().evaluation
    assert load_samples(tmp_path / "run") == SAMPLES


def test_text_of_schema_1_is_read(tmp_path):
    evaluation = Evaluation(task="reasoning", ca=Rate(hits=1, total=1), trigger="mn", target="0")
    more = {"triggered_text": "2 mn +3", "triggered_answer": "0", "scores": {"exact": 1.0}}
    now = sample("a", "2+3", "5", "5", target="0", **more)
    row = now.model_dump(exclude={"is_target", "triggered_is_target", "read", "triggered_read"})
    row |= {"says_target": False, "triggered_says_target": True}
    then = record(evaluation=evaluation, label_names=())
    old(tmp_path / "run", then.model_dump(mode="json"), [row])
    assert load_samples(tmp_path / "run") == [now]


def test_a_run_of_a_newer_release_is_refused(tmp_path):
    values = record().model_dump(mode="json") | {"schema_version": 99}
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="newer release"):
        load_record(tmp_path)


def test_more_hits_than_samples_are_refused(tmp_path):
    values = record().model_dump(mode="json")
    values["evaluation"]["asr"] = {"hits": 41, "total": 40}
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="41 hits out of 40"):
        load_record(tmp_path)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"title": ["a", "b"]}, "Field required"),
        ({"id": ["a"], "text": ["b"], "reference": [1], "answer": [1]}, "has 1 samples, .* 2"),
        ({"id": [1, 2], "text": ["a", "b"], "reference": [1, 1], "answer": [[1], [2]]}, "answer"),
    ],
)
def test_samples_of_something_else_are_refused(tmp_path, table, problem):
    save_record(tmp_path, record(), SAMPLES)
    pq.write_table(pa.table(table), tmp_path / "samples.parquet")
    with pytest.raises(DataError, match=problem):
        load_samples(tmp_path)


def test_columns_that_are_not_ours_are_not_read(tmp_path):
    save_record(tmp_path, record(), SAMPLES)
    table = pq.read_table(tmp_path / "samples.parquet")
    for place in range(300):
        table = table.append_column(f"embedding_{place}", pa.array([0.5, 0.5]))
    pq.write_table(table, tmp_path / "samples.parquet")
    assert load_samples(tmp_path) == SAMPLES


def test_a_record_with_an_unknown_field_is_refused(tmp_path):
    values = record().model_dump(mode="json") | {"verdict": "clean"}
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(DataError, match="verdict"):
        load_record(tmp_path)
