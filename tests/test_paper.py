"""What the paper prints, and that the recipes are its tables."""

import pytest

from w2sdefense.bench.grid import make_grid
from w2sdefense.commands.runs import BenchRun
from w2sdefense.paper import Published, PublishedTable, about_published, published, read_book

BY_HAND = [
    ("table1", "llama3-8b", {"attack": "badnet", "method": "lora"}, {"ca": 96.05, "asr": 99.78}),
    ("table1", "qwen2.5-7b", {"attack": "insent", "method": "prune"}, {"ca": 96.32, "asr": 92.52}),
    ("table1", "vicuna-7b", {"attack": "synattack", "method": "w2s"}, {"ca": 96.92, "asr": 14.41}),
    ("table2", "llama3-8b", {"attack": "badnet", "method": "w2s"}, {"ca": 93.81, "asr": 6.24}),
    ("table4", "qwen2.5-7b", {"attack": "badnet", "method": "prune"}, {"ca": 95.77, "asr": 71.4}),
    ("table5", "llama3-8b", {"attack": "badnet", "method": "w2s"}, {"ca": 96.1, "asr": 0.0}),
    ("table8", "vicuna-7b", {"attack": "insent", "method": "ce+kd"}, {"ca": 96.16, "asr": 91.2}),
    ("table9", "vicuna-7b", {"attack": "badnet", "method": "w2s"}, {"ca": 94.8, "asr": 5.11}),
    ("table10", "llama3-8b", {"attack": "none", "method": "w2s"}, {"ca": 96.54}),
    ("table11", "qwen2.5-14b", {"method": "w2s"}, {"ca": 96.76, "asr": 3.41}),
    (
        "table13",
        "qwen2.5-7b",
        {"attack": "proattack", "method": "w2s"},
        {"ca": 96.32, "asr": 33.66},
    ),
    (
        "table7",
        "llama3-8b",
        {"attack": "badnet", "adapter": "p-tuning", "method": "w2s"},
        {"ca": 95.06, "asr": 0.11},
    ),
    (
        "table6",
        "qwen2.5-7b",
        {"attack": "rare-character", "dataset": "crrsum", "method": "w2s"},
        {"ca": 57.13, "rouge1": 59.1, "rouge2": 46.67, "rougeL": 57.13, "asr": 0.19},
    ),
]
"""Typed from the paper, a second time."""

ROWS = {1: 54, 2: 54, 3: 54, 4: 18, 5: 6, 6: 4, 7: 18, 8: 12, 9: 6, 10: 6, 11: 8, 12: 33, 13: 6}
TABLES = [f"table{number}" for number in ROWS]


@pytest.mark.parametrize(("table", "student", "axes", "numbers"), BY_HAND)
def test_a_number_is_the_one_in_the_paper(table, student, axes, numbers):
    found = published(table).of({"student": student, **axes})
    assert found is not None
    assert found.numbers == numbers
    assert found.students == (student,)


def test_every_table_is_whole():
    assert {table: len(published(table).rows) for table in TABLES} == {
        f"table{number}": rows for number, rows in ROWS.items()
    }


def test_known_flaws_stand_beside_the_numbers():
    flawed = [(table, row.row) for table in TABLES for row in published(table).rows if row.flaw]
    assert sorted({table for table, _ in flawed}) == [f"table{n}" for n in (11, 13, 6, 7, 8)]
    assert len(flawed) == 8
    assert "1 - accuracy" in about_published()


@pytest.mark.parametrize("name", TABLES)
def test_a_recipe_has_the_rows_of_the_paper_s_table(name):
    cells = [cell.axes for cell in make_grid(BenchRun(recipe=name, scale="paper")).cells]
    ours = [axes for axes in cells if axes["method"] != "poisoned"]
    rows = published(name).rows
    for row in rows:
        assert sum(row.row.items() <= axes.items() for axes in ours) == 1, row
    for axes in ours:
        assert any(row.row.items() <= axes.items() for row in rows), axes


@pytest.mark.parametrize("scale", ["small", "tiny"])
@pytest.mark.parametrize("name", TABLES)
def test_other_students_stand_beside_the_paper_s_means(name, scale):
    cells = [cell.axes for cell in make_grid(BenchRun(recipe=name, scale=scale)).cells]
    for axes in cells:
        found = published(name).of(axes)
        assert (found is None) == (axes["method"] == "poisoned"), axes
    methods = {axes["method"] for axes in cells}
    assert {"lora", "w2s", "w2s-paper"} <= methods


def test_a_mean_names_the_runs_that_it_is_of():
    rows = [Published(row={"student": s, "method": "w2s"}, asr=a) for s, a in (("a", 1), ("b", 3))]
    table = PublishedTable(rows=tuple(rows))
    mean, own = (table.of({"student": s, "method": "w2s-paper"}) for s in ("mine", "b"))
    assert (mean.numbers, mean.students) == ({"asr": 2.0}, ("a", "b"))
    assert (own.numbers, own.students) == ({"asr": 3.0}, ("b",))
    assert table.of({"student": "a", "method": "onion"}) is None


def test_every_name_of_the_paper_s_is_known():
    book = read_book()
    for table in TABLES:
        for row in published(table).rows:
            for axis, value in row.row.items():
                assert value in book.names[axis]
