"""Reading runs: order, titles, and what does not belong together."""

import numpy as np
import pytest
from synthetic_runs import make_record, make_samples

from w2sdefense.errors import DataError
from w2sdefense.evaluation.record import save_record
from w2sdefense.report import load_runs


def test_runs_keep_their_order_and_get_readable_titles(folders):
    runs = load_runs(folders)
    assert [run.title for run in runs] == ["Poisoned", "LoRA", "W2SDefense"]
    assert len(runs[0].samples) == 240
    assert runs[0].features["triggered"].shape == (len(runs[0].triggered), 16)


def test_equal_names_get_different_titles(save_run):
    folder = save_run("w2s", 0.1)
    titles = ["W2SDefense", "W2SDefense (2)", "W2SDefense (3)"]
    assert [run.title for run in load_runs([folder] * 3)] == titles


def test_no_run_is_an_error():
    with pytest.raises(DataError, match="no run"):
        load_runs([])


def test_an_unfinished_run_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no finished run"):
        load_runs([tmp_path])


def test_other_test_texts_are_not_compared(save_run):
    one, other = save_run("poisoned", 0.9), save_run("w2s", 0.1, fingerprints={"test": "other"})
    with pytest.raises(DataError, match="different texts"):
        load_runs([one, other])


def test_features_of_other_samples_are_refused(tmp_path):
    samples = make_samples(8, 0.5, 0.1)
    features = {"clean": np.zeros((7, 2), np.float32)}
    save_record(tmp_path, make_record("w2s", samples), samples, features)
    with pytest.raises(DataError, match=r"features of shape \(7, 2\) for 8"):
        load_runs([tmp_path])
