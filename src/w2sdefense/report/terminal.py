"""The results as a table for the terminal. Colours repeat what the words already say."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from w2sdefense.evaluation.states import State
from w2sdefense.report.rows import Cell, headers, legend, results, verdict_of
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
    for place, header in enumerate(headers(runs)):
        table.add_column(header, no_wrap=place in (1, 2, 3))
    for row in results(runs):
        table.add_row(
            Text(row.title, style="bold"),
            *(_text(cell) for cell in (row.ca, row.asr, row.floor)),
            Text(row.verdict, style=_STYLES[row.state]),
        )
    return table


def _text(cell: Cell) -> Text:
    """A cell on two lines: share and counts, then the interval (Text, so that [] is no markup)."""
    text = Text(cell.value, style="bold")
    if cell.counts:
        text.append(f" {cell.counts}\n{cell.interval}", style="dim not bold")
    return text
