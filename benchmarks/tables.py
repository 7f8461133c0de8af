"""Rows of a table from the records of runs, and tables from rows: what the benchmarks share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from w2sdefense.evaluation.metrics import Quality, Rate
from w2sdefense.evaluation.record import RECORD, load_record

Row = dict[str, Any]


def chosen(text: str, known: Iterable[str]) -> list[str]:
    """The names in a list that is separated by commas; none for an empty one.

    Raises:
        typer.BadParameter: One of them is not known.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := sorted(set(names) - set(known)):
        raise typer.BadParameter(f"{', '.join(unknown)}: none of {', '.join(known)}")
    return names


def measured(rates: Mapping[str, Quality]) -> Row:
    """Shares, 95 % intervals and counts by name: `ca`, `ca_interval`, `hits_ca`, `n_ca` ...

    A mean score has no hits.
    """
    row: Row = {}
    for name, rate in rates.items():
        row |= {
            name: rate.value,
            f"{name}_interval": rate.interval,
            f"hits_{name}": rate.hits if isinstance(rate, Rate) else None,
            f"n_{name}": rate.total,
        }
    return row


def recorded(run: Path) -> Row | None:
    """What the record of a run measured, and what it cost; None if the run is not finished.

    Raises:
        ValueError: It was measured without a trigger.
    """
    if not (run / RECORD).is_file():
        return None
    record = load_record(run)
    found = record.evaluation
    if found.asr is None or found.floor is None:
        raise ValueError(f"{run} was measured without a trigger")
    return {
        **measured({"ca": found.ca, "asr": found.asr, "floor": found.floor}),
        "metric": found.metric,
        "scores": {name: mean.value for name, mean in found.scores.items()},
        "length_ratio": found.length_ratio,
        "cut_triggers": found.cut_triggers,
        "seconds": record.provenance.seconds,
        "prediction_seconds": found.seconds,
        "seconds_per_text": found.seconds_per_text,
        "peak_memory_mb": record.provenance.peak_memory_mb,
        "found": record.model_dump(mode="json")["found"],
        "notes": list(record.notes),
        "machine": record.provenance.machine,
    }


def with_earlier(rows: Sequence[Row], table: Path, names: Sequence[str]) -> list[Row]:
    """Rows of runs, and the rows that a table has already for other cells.

    A table that takes hours is finished on more than one machine; every row names its own.

    Args:
        rows: What the runs that are there measured.
        table: JSON file of the table; it may not exist yet.
        names: Columns that say which cell a row is.
    """
    earlier = json.loads(table.read_text(encoding="utf-8")) if table.is_file() else []
    cells = {tuple(row[name] for name in names): row for row in [*earlier, *rows]}
    return list(cells.values())


def markdown(rows: Sequence[Row], columns: Mapping[str, Callable[[Row], object]]) -> str:
    """A table with a column for every name; None is an empty cell."""
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    for row in rows:
        cells = (cell(row) for cell in columns.values())
        lines.append("| " + " | ".join("" if c is None else str(c) for c in cells) + " |")
    return "\n".join(lines) + "\n"


def percent(name: str) -> Callable[[Row], str]:
    """The cell of a share with its interval, in percent."""

    def cell(row: Row) -> str:
        low, high = row[f"{name}_interval"]
        return f"{100 * row[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    return cell


BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
"""Around the table in a page of the documentation; what stands outside is written by hand."""


def with_table(page: str, table: str) -> str:
    """A page of the documentation with a new table between its two marks.

    Raises:
        ValueError: The page does not have both marks.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} with an {END} behind it")
    return f"{before}{BEGIN}\n\n{table}\n{END}{after}"
