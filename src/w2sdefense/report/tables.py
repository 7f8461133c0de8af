"""Formats numbers and verdicts for the terminal, the page and Markdown.

All tables use this module, so that they format numbers alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import unescape

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich import box
from rich.table import Table
from rich.text import Text

from w2sdefense.evaluation.metrics import Quality, Rate
from w2sdefense.evaluation.states import STATE_WORDS, State
from w2sdefense.evaluation.verdict import Verdict, judge
from w2sdefense.report.runs import Run, attacked_with
from w2sdefense.tasks import TASKS

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


@dataclass(frozen=True, slots=True)
class Cell:
    """A table cell, usually a formatted number."""

    value: str  # "97.8%", or a dash if it was not measured
    interval: str = ""  # "[96.1, 98.8]" in percent, or empty
    counts: str = ""  # "489/500", for a mean "n=500", or empty
    number: float | None = None  # sort key; None if the cell is not a number

    def __str__(self) -> str:
        parts = (self.value, self.interval, self.counts and f"({self.counts})")
        return " ".join(part for part in parts if part)


def cell(rate: Quality | None) -> Cell:
    """Format a share or a mean score with its interval and counts."""
    if rate is None or not rate.total:
        return Cell("\N{EN DASH}")
    low, high = rate.interval
    return Cell(
        value=f"{rate.value:.1%}",
        interval=f"[{100 * low:.1f}, {100 * high:.1f}]",
        counts=f"{rate.hits}/{rate.total}" if isinstance(rate, Rate) else f"n={rate.total}",
        number=rate.value,
    )


def templates(*, html: bool) -> Environment:
    """The templates of the page (HTML, escaped by jinja) or the card (Markdown, filter `md`)."""
    environment = Environment(
        loader=PackageLoader("w2sdefense.report"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
    )
    environment.filters |= {"md": escape, "unescape": unescape}
    return environment


def escape(text: str) -> str:
    """Escape untrusted text for Markdown, so that bars and tags have no effect."""
    plain = " ".join(text.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def markdown_table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table, with every cell escaped."""
    lines = (" | ".join(map(escape, row)) for row in (heads, *rows))
    head, *body = (f"| {line} |" for line in lines)
    return [head, "| " + " | ".join(["---"] * len(heads)) + " |", *body]


def verdict_of(runs: Sequence[Run], run: Run) -> Verdict:
    """The verdict on one of some runs: the first alone, the others compared with the first."""
    first = runs[0].record.evaluation
    return judge(first) if run is runs[0] else judge(first, run.record.evaluation)


def own_verdict(runs: Sequence[Run], run: Run) -> Verdict:
    """The verdict on one of many runs, compared with the model it started from, if known."""
    evaluation = run.record.evaluation
    if run.record.stage != "defend":
        return judge(evaluation)
    student = run.record.config.get("student")
    measured = [
        other.record
        for other in runs
        if other.record.stage == "evaluate" and other.record.config.get("student") == student
    ]
    for before in (run.origin, *measured):
        if before is not None and attacked_with(before) == attacked_with(run.record):
            return judge(before.evaluation, evaluation)
    return judge(evaluation)


def legend(runs: Sequence[Run]) -> str:
    """An explanation of the columns."""
    evaluation = runs[0].record.evaluation
    quality = "CA: accuracy" if evaluation.metric == "accuracy" else f"{evaluation.metric}: mean"
    others = TASKS[evaluation.task].other_answers
    return (
        f"{quality} on clean text. ASR: share of the texts {others} that the trigger turns "
        "into the target. Floor: the same texts without the trigger. 95 % intervals."
    )


def terminal_table(runs: Sequence[Run]) -> Table:
    """CA, ASR and floor of runs as `load_runs` returns them, and the verdict on the last.

    Raises:
        DataError: The runs were tested with different triggers or targets.
    """
    verdict = verdict_of(runs, runs[-1])
    table = Table(
        # Colour is never the only carrier of information.
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
            *(_on_two_lines(rate) for rate in (evaluation.ca, evaluation.asr, evaluation.floor)),
            Text(STATE_WORDS[state], style=_STYLES[state]),
        )
    return table


def _on_two_lines(rate: Quality | None) -> Text:
    """Share and counts, then the interval; as `Text`, so that [] is not parsed as markup."""
    written = cell(rate)
    text = Text(written.value, style="bold")
    if written.counts:
        text.append(f" {written.counts}\n{written.interval}", style="dim not bold")
    return text
