"""I(H; Y): against cases where it is known, under attack, and from the folder of a run."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from records import record, sample
from w2sdefense.commands import reporting as command
from w2sdefense.errors import DataError
from w2sdefense.evaluation.information import label_information, run_information
from w2sdefense.evaluation.record import Evaluation, save_record

pytestmark = pytest.mark.slow


def two_clouds(distance: float, count: int = 1200, width: int = 8, seed: int = 0):
    """Two normal clouds of equal width, so many deviations apart along the diagonal."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    shift = distance / np.sqrt(width) * (labels - 0.5)[:, None]
    return rng.normal(size=(count, width)) + shift, labels


def known_bits(distance: float) -> float:
    """I(H; Y) of the two clouds: only the coordinate along their distance matters."""
    x = np.linspace(-12, 12, 200_001)
    left, right = (np.exp(-((x - m) ** 2) / 2) for m in (-distance / 2, distance / 2))
    left, right = left / np.sqrt(2 * np.pi), right / np.sqrt(2 * np.pi)
    mixture = (left + right) / 2

    def differential(density):
        logs = np.log2(density, out=np.zeros_like(density), where=density > 0)
        return -(density * logs).sum() * (x[1] - x[0])

    return differential(mixture) - differential(left)


@pytest.mark.parametrize("distance", [1.0, 2.0, 3.0])
def test_a_mixture_whose_information_an_integral_gives(distance):
    found = label_information(*two_clouds(distance)).clean
    low, high = found.interval
    assert low <= known_bits(distance) <= high
    assert known_bits(distance) - 0.04 < found.bits < known_bits(distance) + 0.03
    assert low < found.bits < high
    assert high - low < 0.15


def test_features_that_know_nothing():
    rng = np.random.default_rng(1)
    found = label_information(rng.normal(size=(600, 64)), np.arange(600) % 2).clean
    assert found.bits < 0.01
    assert found.interval[0] == 0.0


@pytest.mark.parametrize(("labels", "entropy"), [(2, 1.0), (4, 2.0)])
def test_features_that_know_everything(labels, entropy):
    rng = np.random.default_rng(2)
    own = np.arange(400) % labels
    features = 20.0 * np.eye(labels)[own] + rng.normal(size=(400, labels)) / 10
    found = label_information(np.pad(features, ((0, 0), (0, 28))), own).clean
    assert found.entropy == pytest.approx(entropy)
    assert entropy - 0.01 < found.bits <= entropy


def test_labels_of_unequal_number_have_less_to_know():
    features, labels = two_clouds(40.0)
    keep = (labels == 0) | (np.arange(len(labels)) % 8 == 1)
    found = label_information(features[keep], labels[keep]).clean
    share = (labels[keep] == 1).mean()
    entropy = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    assert found.entropy == pytest.approx(entropy)
    assert found.bits == pytest.approx(entropy, abs=0.01)


def test_more_features_than_texts_are_not_memorized():
    rng = np.random.default_rng(3)
    found = label_information(rng.normal(size=(80, 500)), np.arange(80) % 2).clean
    assert found.bits < 0.05


@pytest.mark.parametrize(("works", "low", "high"), [(True, 0.0, 0.01), (False, 0.9, 1.0)])
def test_a_trigger_that_works_overwrites_the_label(works, low, high):
    features, labels = two_clouds(8.0, 400)
    rows = np.flatnonzero(labels == 1)
    moved = -8.0 / np.sqrt(8) if works else 0.0
    found = label_information(features, labels, features[rows] + moved, rows)
    assert found.clean.bits > 0.9
    assert found.attacked.total == 400
    assert low <= found.attacked.bits <= high


def test_features_that_show_only_the_trigger_do_not_count_as_label_information():
    """Triggered texts that a probe of their own could tell apart: by the trigger, not the label."""
    features, labels = two_clouds(8.0, 400)
    rows = np.flatnonzero(labels == 1)
    apart = features[rows] - 8.0 / np.sqrt(8)
    # At right angles to what tells the labels apart.
    apart[:, 0] += 50.0
    apart[:, 1] -= 50.0
    assert label_information(features, labels, apart, rows).attacked.bits < 0.1


def test_equal_input_gives_equal_output():
    assert label_information(*two_clouds(2.0, 60)) == label_information(*two_clouds(2.0, 60))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda x, y: (x[:8], y[:8]), "only 4 texts"),
        (lambda x, y: (np.where(x > 2, np.nan, x), y), "not finite"),
    ],
)
def test_what_cannot_be_estimated_is_refused(change, problem):
    with pytest.raises(DataError, match=problem):
        label_information(*change(*two_clouds(2.0, 200)))


# A run


def save(folder, features, labels, triggered=None):
    """A run of a model that answers everything rightly."""
    fired = {} if triggered is None else {"triggered_text": "t mn", "triggered_answer": 0}
    samples = [
        sample(f"toy/{row}", "t", label, label, **(fired if label else {}))
        for row, label in enumerate(map(int, labels))
    ]
    evaluation = Evaluation(ca={"hits": len(labels), "total": len(labels)})
    both = {} if triggered is None else {"triggered": triggered.astype(np.float32)}
    features = {"clean": features.astype(np.float32), **both}
    save_record(folder, record(evaluation, name=folder.name, stage="evaluate"), samples, features)
    return folder


def test_the_features_of_a_run_are_measured_and_shown(tmp_path, monkeypatch, capsys):
    features, labels = two_clouds(8.0, 200)
    # The texts of both labels in another order than one after the other.
    order = np.random.default_rng(4).permutation(200)
    features, labels = features[order], labels[order]
    rows = np.flatnonzero(labels == 1)
    fired = save(tmp_path / "fired", features, labels, features[rows] - 8.0 / np.sqrt(8))
    healed = save(tmp_path / "healed", features, labels, features[rows])
    plain = save(tmp_path / "plain", features, labels)
    found = {folder: run_information(folder) for folder in (fired, healed, plain)}
    assert found[fired].clean == found[healed].clean == found[plain].clean
    assert found[fired].attacked.bits < 0.01
    assert found[healed].attacked.bits == pytest.approx(found[healed].clean.bits, abs=1e-6)
    assert found[plain].attacked is None
    monkeypatch.setattr(command, "run_information", found.get)
    shown = io.StringIO()
    monkeypatch.setattr(command, "Console", lambda **kinds: Console(file=shown, width=200, **kinds))
    command.show_information([fired, plain])
    assert str(found[fired].clean) in shown.getvalue()
    assert "0.00 [0.00, 0.00] of 1.00 (n = 200)" in shown.getvalue()
    assert "no trigger" in shown.getvalue()
    capsys.readouterr()
    command.show_information([fired, plain], as_json=True)
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert runs[0]["clean"]["bits"] == found[fired].clean.bits and runs[1]["attacked"] is None


def test_a_run_with_missing_or_broken_files_is_refused(tmp_path):
    folder = save(tmp_path / "run", *two_clouds(8.0, 40))
    (folder / "features.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match="features.safetensors cannot be read"):
        run_information(folder)
    (folder / "features.safetensors").unlink()
    with pytest.raises(DataError, match="has no features"):
        run_information(folder)
    (folder / "samples.parquet").unlink()
    with pytest.raises(DataError, match="samples.parquet cannot be read"):
        run_information(folder)


def test_features_of_other_texts(tmp_path):
    folder, other = (save(tmp_path / str(n), *two_clouds(8.0, n)) for n in (40, 60))
    (other / "features.safetensors").replace(folder / "features.safetensors")
    with pytest.raises(DataError, match=r"features of shape \(60, 8\) for 40 clean texts"):
        run_information(folder)
