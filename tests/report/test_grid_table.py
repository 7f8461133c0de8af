import csv
import io

import pytest
from rich.console import Console

from w2sdefense.evaluation.metrics import Mean, Rate
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
        GridRow(
            {"student": "a_b", "method": "w2s"},
            Evaluation(ca=rate(88, 100), asr=rate(5, 50), floor=rate(5, 50)),
            {"ca": 95.0, "asr": 2.25},
        ),
        GridRow({"student": "a_b", "method": "onion"}, None, {}),
    ],
    notes=["One | two."],
)


def test_ours_stands_beside_theirs():
    values = TABLE.as_values()["rows"][0]
    assert (values["ca"], values["paper_ca"]) == (0.9, 95.5)
    assert (values["asr_low"], values["asr_high"]) == rate(50, 50).interval
    assert (
        "| lora | 90.0% [82.6, 94.5] | 95.50 | 100.0% [92.9, 100.0] | 98.25 |" in TABLE.markdown()
    )


def test_what_a_defense_does_is_measured_against_lora():
    lora, w2s, onion = TABLE.as_values()["rows"]
    assert (w2s["drop"], w2s["paper_drop"]) == (pytest.approx(90.0), 96.0)
    assert (w2s["loss"], w2s["paper_loss"]) == (pytest.approx(2.0), 0.5)
    assert w2s["drop_difference"] == pytest.approx(-6.0)
    assert w2s["drop_low"] < 90.0 < w2s["drop_high"]
    assert w2s["loss_low"] < 0.0 < w2s["loss_high"]  # 90 and 88 of 100 may be the same
    for row in (lora, onion):
        assert (row["drop"], row["loss"], row["paper_drop"]) == (None, None, None)
    assert "+90.0" in TABLE.latex()


def test_lora_is_that_of_the_same_adapter_and_seed():
    def row(adapter: str, method: str, hits: int) -> GridRow:
        axes = {"adapter": adapter, "method": method}
        return GridRow(axes, Evaluation(ca=rate(9, 10), asr=rate(hits, 10)), {})

    rows = [row("lora", "lora", 9), row("p-tuning", "lora", 8), row("p-tuning", "w2s", 1)]
    table = GridTable("mine", "Mine", rows, [])
    assert table.effect(rows[2], "drop").ours.value == pytest.approx(0.7)
    anything = [row("any", "lora", 6), row("p-tuning", "w2s", 1)]
    table = GridTable("mine", "Mine", anything, [])
    assert table.effect(anything[1], "drop").ours.value == pytest.approx(0.5)


def test_scores_of_summaries_have_columns_where_there_are_some():
    def mean(value: float) -> Mean:
        return Mean(value=value, deviation=0.1, total=9)

    scores = {"rouge1": mean(0.6), "rougeL": mean(0.5)}
    evaluation = Evaluation(task="summarization", ca=mean(0.5), scores=scores)
    row = GridRow({"method": "lora"}, evaluation, {"ca": 54.54, "rouge1": 58.43, "rougeL": 54.54})
    table = GridTable("mine", "Mine", [row], [])
    assert table.heads[1:5] == ["ROUGE-L", "ROUGE-L (paper)", "ROUGE-1", "ROUGE-1 (paper)"]
    assert table.as_values()["rows"][0]["rouge1"] == pytest.approx(0.6)


def test_results_of_other_code_are_marked():
    evaluation = Evaluation(ca=rate(9, 10))
    now = GridRow({"method": "lora"}, evaluation, {}, code="2")
    before = GridRow({"method": "w2s"}, evaluation, {}, code="1", older=True)
    assert "older (1)" in GridTable("mine", "Mine", [now, before], []).markdown()
    assert "Code" not in GridTable("mine", "Mine", [now], []).heads


def test_what_was_not_run_is_a_dash():
    assert "| onion | – | – | – | – | – | – | – | – | – |" in TABLE.markdown()
    assert TABLE.as_values()["rows"][2]["ca"] is None


def test_only_what_varies_is_a_column():
    assert TABLE.varied == ["method"]
    assert TABLE.caption == "A & B (table1 small; student a_b)"


def test_latex_and_markdown_are_escaped():
    tex = TABLE.latex()
    assert r"\caption{A \& B (table1 small; student a\_b)}" in tex
    assert r"90.0\% [82.6, 94.5] & 95.50" in tex
    assert r"One \| two." in TABLE.markdown()


def test_csv_has_counts_and_bounds():
    first, *_, last = csv.DictReader(io.StringIO(TABLE.csv()))
    assert (first["ca_n"], first["student"]) == ("100", "a_b")
    assert last["ca"] == ""


def of_attacks(*attacks: str | int) -> GridTable:
    evaluation = Evaluation(ca=rate(90, 100))
    rows = [GridRow({"attack": attack}, evaluation, {"ca": 95.5}) for attack in attacks]
    return GridTable("mine", "Mine", rows, [])


def test_a_table_cell_is_not_taken_for_a_macro_argument():
    lines = of_attacks("[/b]", "*", " [x]", "mn [x]").latex().splitlines()
    rows = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert [row.split(" &")[0] for row in rows] == ["{}[/b]", "{}*", "{}[x]", "mn [x]"]


def test_a_trigger_in_csv_is_never_a_spreadsheet_formula():
    texts = ["=1+1", "+1", "-1", "@a", " =1+1"]
    rows = list(csv.DictReader(io.StringIO(of_attacks(*texts, "a=1", -1).csv())))
    assert [row["attack"] for row in rows] == [*(f"'{text}" for text in texts), "a=1", "-1"]
    assert {float(row["paper_ca"]) for row in rows} == {95.5}


def test_the_terminal_shows_the_same():
    console = Console(file=io.StringIO(), width=200)
    console.print(TABLE.terminal())
    assert "82.6, 94.5" in console.file.getvalue()
