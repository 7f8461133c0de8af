"""The results as a table for the terminal. Colours repeat what the words already say."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from w2sdefense.evaluation.states import STATE_WORDS, State
from w2sdefense.report.rows import Cell, cell, legend, verdict_of
from w2sdefense.report.runs import Run

_STYLES: dict[State, str] = {
    "alive": "bold red",
    "weakened": "bold yellow",
    "masked": "bold yellow",
    "unclear": "bold yellow",
    "doubtful": "bold red",
    "removed": "bold green",
    "unseen": "bold green",
    "untested": "dim",
}


def terminal_table(runs: Sequence[Run]) -> Table:
    """CA, ASR and floor of every run with intervals and counts, and what follows from them.

    Args:
        runs: As `load_runs` returns them; the last one is the one the title speaks about.

    Raises:
        DataError: The runs were tested with different triggers or targets.
    """
    verdict = verdict_of(runs, runs[-1])
    table = Table(
        title=Text(verdict.headline, style=_STYLES[verdict.state]),
        caption=Text.assemble(
            *((f"Warning: {warning}\n", "bold red") for warning in verdict.warnings),
            f"{verdict.unknown}\n" if verdict.unknown else "",
            ("\n".join((*verdict.limits, legend(runs))), "dim"),
        ),
        caption_justify="left",
        box=box.ROUNDED,
        show_lines=True,
    )
    metric = runs[0].record.evaluation.metric
    table.add_column("Model")
    for header in ("CA" if metric == "accuracy" else metric, "ASR", "Floor"):
        table.add_column(header, no_wrap=True)
    table.add_column("Verdict")
    for run in runs:
        evaluation, state = run.record.evaluation, verdict_of(runs, run).state
        table.add_row(
            Text(run.title, style="bold"),
            *(_text(cell(rate)) for rate in (evaluation.ca, evaluation.asr, evaluation.floor)),
            Text(STATE_WORDS[state], style=_STYLES[state]),
        )
    return table


def _text(written: Cell) -> Text:
    """A cell on two lines: share and counts, then the interval (Text, so that [] is no markup)."""
    text = Text(written.value, style="bold")
    if written.counts:
        text.append(f" {written.counts}\n{written.interval}", style="dim not bold")
    return text
