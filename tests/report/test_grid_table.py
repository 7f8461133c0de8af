from __future__ import annotations

import csv
import io

import pytest
from rich.console import Console

from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.report.grid import GridRow, GridTable


def rate(hits: int, total: int) -> Rate:
    return Rate(hits=hits, total=total)


TABLE = GridTable(
    name="table1 small",
    title="A & B",
    rows=[
        GridRow(
            {"student": "a_b", "method": "lora"},
            Evaluation(ca=rate(90, 100), asr=rate(50, 50), floor=rate(5, 50)),
            {"ca": 95.5, "asr": 98.25},
        ),
        GridRow({"student": "a_b", "method": "w2s"}, None, {}),
    ],
    notes=["One | two."],
)


def test_ours_stands_beside_theirs_with_the_difference():
    values = TABLE.as_values()["rows"][0]
    assert (values["ca"], values["paper_ca"]) == (0.9, 95.5)
    assert values["ca_difference"] == pytest.approx(-5.5)
    assert values["asr_difference"] == pytest.approx(1.75)
    assert (values["asr_low"], values["asr_high"]) == rate(50, 50).interval
    assert (
        "| lora | 90.0% [82.6, 94.5] | 95.50 | -5.50 | 100.0% [92.9, 100.0] | 98.25 | +1.75 |"
        in (TABLE.markdown())
    )


def test_what_was_not_run_is_a_dash():
    assert "| w2s | – | – | – | – | – | – | – |" in TABLE.markdown()
    assert TABLE.as_values()["rows"][1]["ca"] is None


def test_only_what_varies_is_a_column():
    assert TABLE.varied == ["method"]
    assert TABLE.caption == "A & B (table1 small; student a_b)"


def test_latex_and_markdown_are_escaped():
    tex = TABLE.latex()
    assert r"\caption{A \& B (table1 small; student a\_b)}" in tex
    assert r"90.0\% [82.6, 94.5] & 95.50" in tex
    assert r"One \| two." in TABLE.markdown()


def test_csv_has_counts_and_bounds():
    first, second = csv.DictReader(io.StringIO(TABLE.csv()))
    assert (first["ca_n"], first["student"]) == ("100", "a_b")
    assert second["ca"] == ""


def of_attacks(*attacks: str | int) -> GridTable:
    evaluation = Evaluation(ca=rate(90, 100))
    rows = [GridRow({"attack": attack}, evaluation, {"ca": 95.5}) for attack in attacks]
    return GridTable("mine", "Mine", rows, [])


def test_a_cell_is_no_argument_of_the_command_before_it():
    lines = of_attacks("[/b]", "*", " [x]", "mn [x]").latex().splitlines()
    rows = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert [row.split(" &")[0] for row in rows] == ["{}[/b]", "{}*", "{}[x]", "mn [x]"]


def test_a_trigger_is_no_formula_of_a_spreadsheet():
    texts = ["=1+1", "+1", "-1", "@a", " =1+1"]
    rows = list(csv.DictReader(io.StringIO(of_attacks(*texts, "a=1", -1).csv())))
    assert [row["attack"] for row in rows] == [*(f"'{text}" for text in texts), "a=1", "-1"]
    assert {float(row["ca_difference"]) for row in rows} == {-5.5}


def test_the_terminal_shows_the_same():
    console = Console(file=io.StringIO(), width=200)
    console.print(TABLE.terminal())
    assert "82.6, 94.5" in console.file.getvalue()
