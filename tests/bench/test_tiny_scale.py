"""The paper's tables from beginning to end, with random models of two layers."""

import io
import json

import pytest
from rich.console import Console

from w2sdefense.bench.command import run_bench, show_table
from w2sdefense.commands.runs import BenchRun

pytestmark = pytest.mark.slow

RUN = {
    "table1": {"attack": ("synattack",), "method": ("poisoned",)},
    "table3": {"attack": ("badnet",), "method": ("w2s",)},
    "table5": {"method": ("w2s",)},
    "table10": {"method": ("poisoned",)},
    "table12": {},
    "table13": {"method": ("w2s",)},
}
"""Every attack, task, kind of teacher and method once; the other tables only vary settings."""


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One folder, so that the tables share victims and teachers."""
    return tmp_path_factory.mktemp("tiny")


def run_table(name, output, display, **chosen):
    """Run a table and return its rows."""
    run = BenchRun(recipe=name, scale="tiny", output=output, **chosen)
    run_bench(run, display)
    table = json.loads((output / f"{name}-tiny" / "table.json").read_text())
    for row in table["rows"]:
        assert row["ca_n"] == 16, row
        assert row["asr_n"], row
    assert "no number of it means anything" in " ".join(table["notes"])
    return table["rows"]


@pytest.mark.parametrize("name", RUN)
def test_a_table_is_run_and_says_that_its_numbers_mean_nothing(name, output, display):
    assert run_table(name, output, display, **RUN[name])


def test_summaries_have_their_scores_beside_the_paper_s(output, display):
    rows = run_table("table6", output, display, method=("w2s",))
    assert [row["dataset"] for row in rows] == ["crrsum", "ape210k"]
    for row in rows:
        assert ("rouge1" in row) == (row["dataset"] == "crrsum")
    shown = io.StringIO()
    run = BenchRun(recipe="table6", scale="tiny", output=output, method=("w2s",))
    show_table(run, Console(file=shown, width=300))
    assert "ROUGE-1 (paper)" in shown.getvalue()
