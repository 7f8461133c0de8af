from typing import Any

import pytest

from w2sdefense.data.rows import (
    Columns,
    Record,
    Row,
    drop_unusable,
    index_labels,
    require_usable,
    to_rows,
)
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError


def row_of(text: Any, label: Any) -> Row:
    record = Record(4, "a.jsonl, line 5", {"text": text, "label": label})
    return to_rows([record], Columns("text", "label"), "a/train")[0]


def rows_with(*labels: str | None) -> list[Row]:
    return [Row(f"d/{i}", f"line {i}", f"text {i}", label) for i, label in enumerate(labels)]


def test_id_place_and_raw_text_are_kept() -> None:
    assert row_of("  a\nb ", "x") == Row("a/train/4", "a.jsonl, line 5", "  a\nb ", "x")


@pytest.mark.parametrize(
    ("value", "label"),
    [
        ("good", "good"),
        (" good ", "good"),
        (1, "1"),
        (1.0, "1"),
        ("1", "1"),
        (-1, "-1"),
        (True, "true"),
        (None, None),
        ("  ", None),
        (float("nan"), None),
    ],
)
def test_labels_become_text(value: Any, label: str | None) -> None:
    assert row_of("a", value).label == label


@pytest.mark.parametrize("value", [0.5, [0, 1], {"a": 1}, float("inf")])
def test_a_value_that_is_no_label_is_named(value: Any) -> None:
    with pytest.raises(DataError, match="line 5: 'label' holds .* neither a label name nor"):
        row_of("a", value)


@pytest.mark.parametrize("value", [5, ["a"], b"a"])
def test_a_value_that_is_no_text_is_named(value: Any) -> None:
    with pytest.raises(DataError, match="line 5: 'text' holds .* not text"):
        row_of(value, 1)


def test_half_an_emoji_is_refused_before_a_tokenizer_chokes_on_it() -> None:
    with pytest.raises(DataError, match="line 5: 'text' holds half a surrogate pair"):
        row_of("good \ud83d", 1)


def test_a_record_without_the_column_names_its_line() -> None:
    record = Record(0, "a.jsonl, line 1", {"text": "a", "stars": 5})

    with pytest.raises(DataError, match="line 1 has no column 'label'.*'text', 'stars'"):
        to_rows([record], Columns("text", "label"), "a")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (Row("d/0", "a.csv, line 7", " \n", "good"), "line 7: the text is empty"),
        (Row("d/0", "a.csv, line 7", "fine", None), "line 7: the label is empty"),
    ],
)
def test_a_file_of_the_user_must_be_complete(row: Row, message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_usable([*rows_with("a"), row])


def test_published_data_loses_incomplete_rows_and_unlabelled_splits() -> None:
    train = [*rows_with("a", None, "b"), Row("d/9", "line 9", " ", "a")]

    kept, dropped = drop_unusable({"train": train, "test": rows_with(None, None)})

    assert kept == {"train": [train[0], train[2]]}
    assert dropped == {"no label": 3, "empty text": 1}


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("good", "bad", "good"), ("bad", "good")),
        (("10", "9", "0"), ("0", "9", "10")),
        (("-1", "1", "0"), ("-1", "0", "1")),
        (("1", "bad"), ("1", "bad")),
        (("01", "1"), ("01", "1")),
    ],
)
def test_label_names_come_sorted_out_of_the_data(
    labels: tuple[str, ...], names: tuple[str, ...]
) -> None:
    found, examples = index_labels({"train": rows_with(*labels)}, None)

    assert found == names
    assert [found[example.label] for example in examples["train"]] == list(labels)


def test_labels_of_all_splits_count() -> None:
    names, _ = index_labels({"train": rows_with("a", "c"), "test": rows_with("b")}, None)

    assert names == ("a", "b", "c")


def test_known_names_are_found_by_name_and_by_index() -> None:
    rows = rows_with("1", "negative", "0", "positive")

    names, examples = index_labels({"test": rows}, ("negative", "positive"))

    assert names == ("negative", "positive")
    assert [example.label for example in examples["test"]] == [1, 0, 0, 1]
    assert examples["test"][0] == Example("d/0", "text 0", 1)


def test_a_name_that_looks_like_an_index_is_a_name() -> None:
    _, examples = index_labels({"train": rows_with("1", "2")}, ("1", "2"))

    assert [example.label for example in examples["train"]] == [0, 1]


def test_a_label_beyond_the_known_names() -> None:
    with pytest.raises(DataError, match="line 1: the label '2' is none of negative, positive"):
        index_labels({"train": rows_with("0", "2")}, ("negative", "positive"))
