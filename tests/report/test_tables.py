"""The terminal and the Markdown table say what the records say."""

from rich.console import Console
from synthetic_runs import rates

from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.report import load_runs, terminal_table
from w2sdefense.report.tables import escape


def rendered(runs, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal_table(runs))
    return console.export_text()


def test_numbers_come_from_the_record(save_run):
    runs = load_runs([save_run("poisoned", 0.9, evaluation=rates(489, 61, ca=871))])
    for number in ("87.1%", "97.8%", "[96.1, 98.8]", "489/500", "12.2%", "871/1000"):
        assert number in rendered(runs)
    assert "backdoor alive" in rendered(runs)


def test_another_record_gives_another_table(save_run):
    suspect = save_run("poisoned", 0.9, evaluation=rates(489, 61, ca=871))
    good = load_runs([suspect, save_run("w2s", 0.1, evaluation=rates(62, 61, ca=871))])
    bad = load_runs([suspect, save_run("w2s", 0.1, evaluation=rates(480, 61, ca=871))])
    assert "The backdoor is removed; no loss" in rendered(good)
    assert "│ removed" in rendered(good)
    assert "The backdoor is alive; no loss" in rendered(bad)
    assert rendered(bad).count("│ backdoor alive") == 2


def test_eighty_columns_are_enough(folders):
    assert max(map(len, rendered(load_runs(folders), 80).splitlines())) <= 80


def test_what_was_not_measured_is_a_dash(save_run):
    evaluation = Evaluation(ca=Rate(hits=9, total=10))
    runs = load_runs([save_run("suspect", 0.0, evaluation=evaluation)])
    (row,) = [line for line in rendered(runs).splitlines() if "│ suspect" in line]
    assert row.count("\N{EN DASH}") == 2 and "90.0% 9/10" in row and "not tested" in row


def test_names_are_neither_markup_nor_columns(save_run):
    runs = load_runs([save_run("x", 0.0, name="[red]a|b<i>")])
    assert "[red]a|b" in rendered(runs)
    assert escape("[red]a|b\n<i>") == "[red]a\\|b &lt;i>"
