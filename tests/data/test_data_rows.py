from datetime import date
from decimal import Decimal
from typing import Any

import pytest

from w2sdefense.data.rows import (
    Columns,
    Record,
    Row,
    drop_unusable,
    index_labels,
    missing_column,
    to_rows,
)
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError


def row_of(text: Any, label: Any) -> Row:
    record = Record(4, "a.jsonl, line 5", {"text": text, "label": label})
    return to_rows([record], Columns("text", "label"), "a/train")[0]


def rows_with(*labels: str | None) -> list[Row]:
    return [Row(f"d/{i}", f"line {i}", f"text {i}", label) for i, label in enumerate(labels)]


def test_id_place_and_raw_text_are_kept():
    assert row_of("  a\nb ", "x") == Row("a/train/4", "a.jsonl, line 5", "  a\nb ", "x")


@pytest.mark.parametrize("value", [None, "  ", float("nan")])
def test_no_label_is_none(value):
    assert row_of("a", value).label is None


@pytest.mark.parametrize("value", [[0, 1], {"a": 1}, b"good", date(2026, 1, 1)])
def test_a_value_that_is_no_label_is_named(value):
    with pytest.raises(DataError, match="line 5: 'label' holds .* neither a name nor a number"):
        row_of("a", value)


@pytest.mark.parametrize(
    "spellings",
    [
        {"0": [0, 0.0, "0", "0.0", "-0", "+0.00"]},
        {"1": [1, 1.0, "1", "1.0", " 1.00 ", "+1", "1e0", Decimal("1.0"), "１", "1\u200b"]},
        {"-1": [-1, -1.0, "-1", "-1.0"]},
        {"0.5": [0.5, "0.5", "0.50", "5e-1", Decimal("0.5"), 0.5000000001]},
        {"true": [True, "true", "True", " TRUE "]},
        {"false": [False, "false", "False"]},
        {"Good film": ["Good film", " Good film\t"]},
        {"01": ["01"]},
        {"1e+20": [1e20, "1e20", "1e+20"]},
        {"9007199254740993": [2**53 + 1, "9007199254740993"]},
        {"9" * 5000: ["9" * 5000]},
    ],
)
def test_one_value_has_one_label_name_however_it_is_spelled(spellings):
    for name, values in spellings.items():
        rows = [row_of("a", value) for value in values]
        assert index_labels({"train": rows}, None)[0] == (name,)


@pytest.mark.parametrize("value", ["nan", "NaN", "inf", float("inf"), "-Infinity", "1e999"])
def test_what_is_not_a_number_is_no_label(value):
    with pytest.raises(DataError, match="line 5: the label is .* no number and no name"):
        index_labels({"train": [row_of("a", value)]}, None)


def test_known_names_are_found_whatever_their_spelling():
    rows = [row_of("a", label) for label in (1.0, "True", "2.00")]
    _, examples = index_labels({"train": rows}, ("False", "True", "2 "))
    assert [example.label for example in examples["train"]] == [1, 1, 2]


def test_a_pair_of_sentences_becomes_one_text():
    columns = Columns("premise", "label", "hypothesis")
    record = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}

    def text(**values: object) -> str:
        return to_rows([Record(0, "line 1", record | values)], columns, "nli")[0].text

    assert text() == "It rains.\nIt is wet."
    assert text(hypothesis=" ") == text(premise=None) == ""
    with pytest.raises(DataError, match="no column 'hypothesis'"):
        to_rows([Record(0, "line 1", {"premise": "a", "label": 0})], columns, "nli")


@pytest.mark.parametrize("value", [5, ["a"], b"a"])
def test_a_value_that_is_no_text_is_named(value):
    with pytest.raises(DataError, match="line 5: 'text' holds .* not text"):
        row_of(value, 1)


def test_half_an_emoji_is_refused_before_a_tokenizer_chokes_on_it():
    with pytest.raises(DataError, match="line 5: 'text' holds half a surrogate pair"):
        row_of("good \ud83d", 1)


def test_a_record_without_the_column_names_its_line():
    record = Record(0, "a.jsonl, line 1", {"text": "a", "stars": 5})
    with pytest.raises(DataError, match="line 1 has no column 'label'.*'text', 'stars'"):
        to_rows([record], Columns("text", "label"), "a")


def test_published_data_loses_incomplete_rows_and_unlabelled_splits():
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
def test_label_names_come_sorted_out_of_the_data(labels, names):
    found, examples = index_labels({"train": rows_with(*labels)}, None)
    assert found == names
    assert [found[example.label] for example in examples["train"]] == list(labels)


def test_labels_of_all_splits_count():
    names, _ = index_labels({"train": rows_with("a", "c"), "test": rows_with("b")}, None)
    assert names == ("a", "b", "c")


def test_known_names_are_found_by_name_and_by_index():
    rows = rows_with("1", "negative", "0", "positive")
    names, examples = index_labels({"test": rows}, ("negative", "positive"))
    assert names == ("negative", "positive")
    assert [example.label for example in examples["test"]] == [1, 0, 0, 1]
    assert examples["test"][0] == Example("d/0", "text 0", 1)


def test_a_name_that_looks_like_an_index_is_a_name():
    _, examples = index_labels({"train": rows_with("1", "2")}, ("1", "2"))
    assert [example.label for example in examples["train"]] == [0, 1]


def test_a_label_beyond_the_known_names():
    with pytest.raises(DataError, match="line 1: the label '2' is none of negative, positive"):
        index_labels({"train": rows_with("0", "2")}, ("negative", "positive"))


def test_a_blank_at_the_end_of_a_label_is_seen():
    with pytest.raises(DataError, match="the label 'so-so' is none of 'good ', bad, 'a, b'"):
        index_labels({"train": rows_with("so-so")}, ("good ", "bad", "a, b"))


def test_an_error_does_not_list_thousands_of_columns():
    error = missing_column("wide.parquet", "text", [f"column {i}" for i in range(5000)])
    assert error.problem.endswith("'column 19', and 4980 more.")
