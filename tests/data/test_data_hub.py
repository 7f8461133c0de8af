from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from w2sdefense.config import DataConfig
from w2sdefense.data import labels_of, load_dataset
from w2sdefense.data.hub import convert, fetch
from w2sdefense.data.load import assemble
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError

COLUMNS = Columns("text", "label")
SENTIMENT = ("negative", "positive")


def split_of(labels: list[Any], prefix: str, label: Any = None, column: str = "text") -> Dataset:
    values = {column: [f"{prefix} {i}" for i in range(len(labels))], "label": labels}
    features = Features({column: Value("string"), "label": label}) if label else None
    return Dataset.from_dict(values, features=features)


def test_class_names_splits_and_ids_of_the_hub_are_kept():
    kind = ClassLabel(names=["bad", "unsure", "good"])
    loaded = DatasetDict(
        {
            "train": split_of([0, 2, 1], "a", kind),
            "dev": split_of([2], "b", kind),
            "test": split_of([0], "c", kind),
            "unsupervised": split_of([-1], "d", kind),
        }
    )
    dataset = assemble(convert(loaded, "me/films", COLUMNS), DataConfig())
    assert dataset.name == "me/films"
    assert dataset.label_names == ("bad", "unsure", "good")
    assert [(e.id, e.text, e.label) for e in dataset.train] == [
        ("me/films/train/0", "a 0", 0),
        ("me/films/train/1", "a 1", 2),
        ("me/films/train/2", "a 2", 1),
    ]
    assert [e.id for e in dataset.validation] == ["me/films/dev/0"]
    assert [e.id for e in dataset.test] == ["me/films/test/0"]
    assert dataset.dropped == {}


@pytest.mark.parametrize("kind", [ClassLabel(names=list(SENTIMENT)), Value("int64")])
def test_an_unlabelled_test_split_gives_way_to_validation(kind):
    loaded = DatasetDict(
        {
            "train": split_of([0, 1] * 20, "a", kind, "sentence"),
            "validation": split_of([1, 0, 1], "b", kind, "sentence"),
            "test": split_of([-1, -1], "c", kind, "sentence"),
        }
    )
    dataset = assemble(convert(loaded, "sst2", Columns("sentence", "label")), DataConfig())
    assert [e.id for e in dataset.test] == [f"sst2/validation/{i}" for i in range(3)]
    assert len(dataset.train) == 36
    assert sorted(labels_of(dataset.validation)) == [0, 0, 1, 1]
    assert {e.id.rsplit("/", 1)[0] for e in dataset.validation} == {"sst2/train"}
    assert dataset.dropped == {"no label": 2}


def test_rows_without_gold_label_or_text_are_dropped_and_counted():
    kind = ClassLabel(names=["no", "yes"])
    train = Dataset.from_dict(
        {"text": ["a", "b", " ", None, "c"], "label": [0, -1, 1, 1, 1]},
        features=Features({"text": Value("string"), "label": kind}),
    )
    loaded = DatasetDict(
        {"train": train, "validation": split_of([0], "v", kind), "test": split_of([1], "t", kind)}
    )
    dataset = assemble(convert(loaded, "me/nli", COLUMNS), DataConfig())
    assert [e.id for e in dataset.train] == ["me/nli/train/0", "me/nli/train/4"]
    assert dataset.dropped == {"no label": 1, "empty text": 2}


def test_string_labels_and_names_known_from_the_catalog():
    words = DatasetDict({s: split_of(["yes", "no"], s) for s in ("train", "validation", "test")})
    integers = DatasetDict({s: split_of([1, 0], s) for s in ("train", "validation", "test")})
    from_words = assemble(convert(words, "me/words", COLUMNS), DataConfig())
    from_catalog = assemble(convert(integers, "cr", COLUMNS, SENTIMENT), DataConfig())
    assert from_words.label_names == ("no", "yes")
    assert from_catalog.label_names == SENTIMENT
    assert labels_of(from_words.train) == labels_of(from_catalog.train) == [1, 0]


def test_a_missing_column_names_those_there_are():
    loaded = DatasetDict({"train": split_of([0, 1], "a", column="sentence")})
    with pytest.raises(DataError, match="no column 'text'.*'sentence', 'label'"):
        convert(loaded, "me/films", COLUMNS)


def test_several_labels_per_text_are_refused():
    loaded = DatasetDict({"train": split_of([[0, 1], [1]], "a")})
    with pytest.raises(DataError, match=r"train, row 1: 'label' holds \[0, 1\]"):
        convert(loaded, "me/emotions", COLUMNS)


def test_no_train_split():
    with pytest.raises(DataError, match="no train split. Its splits are: corpus"):
        convert(DatasetDict({"corpus": split_of([0], "a")}), "me/films", COLUMNS)


@pytest.mark.parametrize(
    ("name", "hub_id", "revision", "column", "names"),
    [
        ("sst2", "stanfordnlp/sst2", None, "sentence", SENTIMENT),
        ("stanfordnlp/sst2", "stanfordnlp/sst2", None, "sentence", SENTIMENT),
        ("SetFit/CR", "SetFit/CR", None, "text", SENTIMENT),
        ("ag_news", "fancyzhx/ag_news", None, "text", ("world", "sports", "business", "sci/tech")),
        ("me/films", "me/films", None, "text", ("0", "1")),
        ("hf://datasets/stanfordnlp/sst2", "stanfordnlp/sst2", None, "sentence", SENTIMENT),
        ("hf://me/films@v1.0", "me/films", "v1.0", "text", ("0", "1")),
        ("me/films@refs/convert/a", "me/films", "refs/convert/a", "text", ("0", "1")),
    ],
)
def test_names_reach_the_hub_with_the_columns_and_labels_of_the_catalog(
    monkeypatch, name, hub_id, revision, column, names
):
    asked = []

    def serve(hub_id: str, revision: str | None) -> DatasetDict:
        asked.append((hub_id, revision))
        return DatasetDict({"train": split_of([0, 1] * 10, "a", column=column)})

    monkeypatch.setattr(datasets, "load_dataset", serve)
    dataset = load_dataset(DataConfig(dataset=name))
    assert asked == [(hub_id, revision)]
    assert dataset.name == name
    assert dataset.label_names == names
    assert dataset.train[0].id.startswith(f"{name}/train/")


def test_the_halves_of_ag_news_share_no_training_row(monkeypatch):
    splits = {"train": split_of([0, 1] * 50, "train"), "test": split_of([0, 1] * 2, "test")}
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, revision: DatasetDict(splits))

    def trained_on(name: str) -> set[str]:
        dataset = load_dataset(DataConfig(dataset=name))
        return {e.text for e in (*dataset.train, *dataset.validation)}

    halves = trained_on("ag_news"), trained_on("ag_news_proxy")
    assert halves[0] & halves[1] == set()
    # 100 draws of one half: within 4 standard deviations of 50.
    assert 30 <= len(halves[0]) <= 70
    assert trained_on("fancyzhx/ag_news") == halves[0] | halves[1]


def test_a_column_that_the_user_names_wins_over_the_catalog(monkeypatch):
    loaded = DatasetDict({"train": split_of([0, 1] * 10, "a", column="phrase")})
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, revision: loaded)
    dataset = load_dataset(DataConfig(dataset="sst2", text_column="phrase"))
    assert dataset.train[0].text.startswith("a ")


def test_a_saved_folder_is_read_with_its_splits_and_class_names(tmp_path):
    kind = ClassLabel(names=["bad", "good"])
    splits = {s: split_of([0, 1, -1], s, kind) for s in ("train", "validation", "test")}
    DatasetDict(splits).save_to_disk(str(tmp_path / "films"))
    dataset = load_dataset(DataConfig(dataset=str(tmp_path / "films")))
    assert dataset.label_names == ("bad", "good")
    assert [(e.id, e.text, e.label) for e in dataset.test] == [
        ("films/test/0", "test 0", 0),
        ("films/test/1", "test 1", 1),
    ]
    assert dataset.dropped == {"no label": 3}


def test_a_saved_folder_of_one_split_is_cut(tmp_path, monkeypatch):
    split_of([0, 1] * 10, "a", column="sentence").save_to_disk(str(tmp_path / "sst2"))
    monkeypatch.setenv("W2S_DATA", str(tmp_path))
    mine = load_dataset(DataConfig(dataset=str(tmp_path / "sst2"), text_column="sentence"))
    named = load_dataset(DataConfig(dataset="sst2", text_column="sentence"))
    assert mine.label_names == ("0", "1")
    assert named.label_names == SENTIMENT
    assert (len(mine.train), len(mine.validation), len(mine.test)) == (16, 2, 2)
    assert mine.train == named.train


@pytest.mark.parametrize("name", ["dataset_dict.json", "state.json"])
def test_a_damaged_saved_folder_is_named(tmp_path, name):
    (tmp_path / name).write_text("{")
    with pytest.raises(DataError, match="Cannot read the Arrow folder .*"):
        load_dataset(DataConfig(dataset=str(tmp_path)))


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        (Value("bool"), [False, True], ("false", "true")),
        (Value("int8"), [0, 1], ("0", "1")),
        (Value("float32"), [0.0, 1.0], ("0", "1")),
        (Value("float32"), [0.1, 0.5], ("0.1", "0.5")),
        (Value("string"), ["1.0", "0"], ("0", "1")),
        (Value("large_string"), ["no", "yes"], ("no", "yes")),
        (ClassLabel(names=["zero", "one "]), [0, 1], ("zero", "one ")),
        (ClassLabel(names=["1", "2"]), [0, 1], ("1", "2")),  # names, no indices
        (None, [-1, 0], ("-1", "0")),  # where labels have no names, it is one like any other
    ],
)
def test_labels_of_every_type(kind, labels, names):
    loaded = DatasetDict({s: split_of(labels, s, kind) for s in ("train", "validation", "test")})
    dataset = assemble(convert(loaded, "me/films", COLUMNS), DataConfig())
    assert dataset.label_names == names
    assert sorted(labels_of(dataset.train)) == [0, 1]


def test_pairs_of_sentences(monkeypatch):
    rows = {"premise": ["It rains."] * 20, "hypothesis": [f"wet {i}" for i in range(20)]}
    loaded = DatasetDict({"train": Dataset.from_dict({**rows, "label": [0, 1] * 10})})
    monkeypatch.setattr(datasets, "load_dataset", lambda hub_id, revision: loaded)
    config = DataConfig(dataset="me/nli", text_column="premise", text_pair_column="hypothesis")
    dataset = load_dataset(config)
    assert dataset.train[0].text == "It rains.\nwet " + dataset.train[0].id.split("/")[-1]


def test_any_failure_of_the_hub_says_what_to_do(monkeypatch):
    def fail(hub_id: str, revision: str | None) -> None:
        raise ConnectionError(f"Couldn't reach '{hub_id}' on the Hub.\nTraceback and more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError) as caught:
        fetch("me/films")
    assert caught.value.problem == (
        "Cannot load the dataset 'me/films' from the hub: Couldn't reach 'me/films' on the Hub."
    )
    for way_out in ("network", "CSV", "rotten-tomatoes", "W2S_DATA"):
        assert way_out in caught.value.fix


def test_offline_mode_of_the_real_client_gives_the_same_error():
    assert datasets.config.HF_HUB_OFFLINE
    with pytest.raises(DataError, match="Cannot load the dataset 'nobody/nothing' from the hub"):
        load_dataset(DataConfig(dataset="nobody/nothing"))
