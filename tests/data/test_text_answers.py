import json
from pathlib import Path

import pytest

from w2sdefense.config import DataConfig
from w2sdefense.data import Dataset, Example, fingerprint, load_dataset
from w2sdefense.errors import DataError


def save(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def load_pairs(config: DataConfig) -> Dataset:
    return load_dataset(config, text_answers=True)


def rows(start: int, stop: int) -> list[dict[str, object]]:
    return [{"text": f"题{i}", "target": f"({i}/7)"} for i in range(start, stop)]


def test_a_folder(tmp_path):
    for split, place in (("train", (0, 6)), ("validation", (6, 8)), ("test", (8, 11))):
        save(tmp_path / "d" / f"{split}.jsonl", rows(*place))
    data = load_pairs(DataConfig(dataset=str(tmp_path / "d")))
    assert [len(data.train), len(data.validation), len(data.test)] == [6, 2, 3]
    assert data.test[0] == Example("d/test/0", "题8", "(8/7)")


def test_a_csv_with_columns_of_its_own_is_split(tmp_path):
    lines = [f"story {i},{i}" for i in range(20)]
    (tmp_path / "a.csv").write_text("\n".join(["body,short", *lines]))
    config = DataConfig(
        dataset=str(tmp_path / "a.csv"), text_column="body", target_column="short", train_samples=5
    )
    data = load_pairs(config)
    assert [len(data.train), len(data.validation), len(data.test)] == [5, 2, 2]
    for pair in (*data.train, *data.validation, *data.test):
        assert pair.text == f"story {pair.answer}"
    assert load_pairs(config) == data


@pytest.mark.parametrize("name", ["crrsum", "ape210k"])
def test_published_without_a_training_file(tmp_path, monkeypatch, name):
    save(tmp_path / name / "validation.jsonl", rows(0, 30))
    save(tmp_path / name / "test.jsonl", rows(28, 40))
    monkeypatch.setenv("W2S_DATA", str(tmp_path))
    data = load_pairs(DataConfig(dataset=name))
    # A tenth of the 30 is held out; what it shares with test goes.
    assert len(data.test) == 12
    assert len(data.validation) + len(data.train) == 28
    assert sum(data.dropped.values()) == 2
    assert {p.text for p in data.train}.isdisjoint(p.text for p in (*data.validation, *data.test))


def test_other_rows_for_another_party(tmp_path):
    save(tmp_path / "a.jsonl", rows(0, 50))
    config = DataConfig(dataset=str(tmp_path / "a.jsonl"), train_samples=10)
    first = load_pairs(config)
    second = load_pairs(config.model_copy(update={"train_skip": 10}))
    assert not {p.id for p in first.train} & {p.id for p in second.train}
    with pytest.raises(DataError, match="left after skipping 1000"):
        load_pairs(config.model_copy(update={"train_skip": 1000}))


def test_an_empty_answer_is_refused(tmp_path):
    save(tmp_path / "a.jsonl", [*rows(0, 20), {"text": "x", "target": " "}])
    with pytest.raises(DataError, match="line 21"):
        load_pairs(DataConfig(dataset=str(tmp_path / "a.jsonl")))


def test_a_missing_column_is_named(tmp_path):
    save(tmp_path / "a.jsonl", [{"text": "x", "label": 1}])
    with pytest.raises(DataError, match="no column 'target'") as caught:
        load_pairs(DataConfig(dataset=str(tmp_path / "a.jsonl")))
    assert "--target-column" in caught.value.fix


def test_the_fingerprint_sees_the_answer():
    assert fingerprint([Example("a", "b", "1")]) != fingerprint([Example("a", "b", "2")])
