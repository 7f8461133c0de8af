"""Every table and figure of the paper from beginning to end, with random models of two layers."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from w2sdefense.bench.command import run_bench, show_table
from w2sdefense.cli.display import Display
from w2sdefense.commands.runs import BenchRun
from w2sdefense.paper import read_book

pytestmark = pytest.mark.slow

OURS = {"method": ("w2s",)}
LESS = {
    # Table 12 has all methods, and these differ in attack and dataset.
    "table1": {"attack": ("synattack",), **OURS},
    "table2": {"attack": ("insent",), **OURS},
    "table3": {"attack": ("badnet",), **OURS},
    "table4": OURS,
    "table5": OURS,
    "table7": {"method": ("lora", "w2s")},
    "table8": {"method": ("ce+kd", "ce+fa")},
    "table9": OURS,
    "table10": {"method": ("lora", "w2s")},
    "table11": OURS,
    "table13": OURS,
    "figure3": OURS,
}
"""What is run of the larger ones."""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One folder, so that the tables share victims and teachers."""
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("name", read_book().of_the_paper)
def test_a_table_is_run_and_says_that_its_numbers_mean_nothing(name, output, capsys):
    run = BenchRun(recipe=name, scale="tiny", output=output, **LESS.get(name, {}))
    run_bench(run, Display(Console(file=io.StringIO())))
    table = json.loads((output / f"{name}-tiny" / "table.json").read_text())
    for row in table["rows"]:
        assert row["ca_n"] == 16, row
        assert row["asr_n"], row
    assert "no number of it means anything" in " ".join(table["notes"])


def test_summaries_have_their_scores_beside_the_paper_s(output):
    run = BenchRun(recipe="table6", scale="tiny", output=output)
    shown = io.StringIO()
    show_table(run, Console(file=shown, width=300))
    assert "ROUGE-1 (paper)" in shown.getvalue()
    rows = json.loads((output / "table6-tiny" / "table.json").read_text())["rows"]
    for row in rows:
        assert ("rouge1" in row) == (row["dataset"] == "crrsum")
