"""How a number and a verdict are written in the tables of the terminal, the page and the card.

One place decides how a number is written, so that the three tables cannot disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from w2sdefense.evaluation.metrics import Quality, Rate
from w2sdefense.evaluation.record import Record
from w2sdefense.evaluation.verdict import Verdict, judge
from w2sdefense.report.runs import Run, attacked_with
from w2sdefense.tasks import TASKS


@dataclass(frozen=True, slots=True)
class Cell:
    """A share as a table writes it.

    Attributes:
        value: "97.8%", or a dash if it was not measured.
        interval: "[96.1, 98.8]" in percent, or nothing.
        counts: "489/500", for a mean "n=500", or nothing.
        number: What it is sorted by; None if it is no number.
    """

    value: str
    interval: str = ""
    counts: str = ""
    number: float | None = None

    def __str__(self) -> str:
        parts = (self.value, self.interval, self.counts and f"({self.counts})")
        return " ".join(part for part in parts if part)


def legend(runs: Sequence[Run]) -> str:
    """What the columns mean."""
    evaluation = runs[0].record.evaluation
    quality = "CA: accuracy" if evaluation.metric == "accuracy" else f"{evaluation.metric}: mean"
    others = "with another answer" if TASKS[evaluation.task].text_answers else "of other classes"
    return (
        f"{quality} on clean text. ASR: share of the texts {others} that the trigger turns "
        "into the target. Floor: the same texts without the trigger. 95 % intervals."
    )


def verdict_of(runs: Sequence[Run], run: Run) -> Verdict:
    """The verdict on one of some runs: on the first by itself, on others against it."""
    first = runs[0]
    if run is first:
        return judge(first.record.evaluation)
    return judge(first.record.evaluation, run.record.evaluation)


def own_verdict(runs: Sequence[Run], run: Run) -> Verdict:
    """The verdict on one of many runs: against the model that it started from, if that is known."""
    evaluation = run.record.evaluation
    if run.record.stage != "defend":
        return judge(evaluation)
    measured = [
        other.record
        for other in runs
        if other.record.stage == "evaluate" and _model_of(other.record) == _model_of(run.record)
    ]
    for before in (run.origin, *measured):
        if before is not None and attacked_with(before) == attacked_with(run.record):
            return judge(before.evaluation, evaluation)
    return judge(evaluation)


def _model_of(record: Record) -> object:
    return record.config.get("student")


def cell(rate: Quality | None) -> Cell:
    """Write a share or a mean score with its interval and counts."""
    if rate is None or not rate.total:
        return Cell("\N{EN DASH}")
    low, high = rate.interval
    return Cell(
        value=f"{rate.value:.1%}",
        interval=f"[{100 * low:.1f}, {100 * high:.1f}]",
        counts=f"{rate.hits}/{rate.total}" if isinstance(rate, Rate) else f"n={rate.total}",
        number=rate.value,
    )
