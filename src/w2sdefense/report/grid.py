"""The table of a grid: our numbers next to the paper's, for terminal, JSON, Markdown, CSV, LaTeX.

Our numbers come from the evaluations, with counts. There are no times in it, so that the same grid
gives the same files on every machine and with any number of processes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from w2sdefense.evaluation.metrics import Quality
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.evaluation.states import Change, difference
from w2sdefense.io import write_json, write_text
from w2sdefense.report.tables import Cell, cell, escape, markdown_table

SCORES = ("rouge1", "rouge2")  # in addition to ROUGE-L, which is `ca` of summaries
METRICS = ("ca", *SCORES, "asr", "floor")
EFFECTS = {"drop": "asr", "loss": "ca"}
"""Effects of a defense compared with plain LoRA: the drop of ASR, and the loss of CA."""
PLAIN = "lora"  # the baseline of effects
NO_DEFENSE = (PLAIN, "poisoned")  # methods without effects
HEADS = {
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "asr": "ASR",
    "floor": "Floor",
    "drop": "ASR drop",
    "loss": "CA loss",
    "code": "Code",
}
_NOTHING = "\N{EN DASH}"
_ANY = "any"


@dataclass(frozen=True)
class GridRow:
    """One row of a grid."""

    axes: Mapping[str, Any]  # axis ("method", "dataset" ...) -> value
    evaluation: Evaluation | None  # the result; None if the row was not run yet
    # the paper's numbers in percent ("ca", "asr", "rouge1" ...), where available
    published: Mapping[str, float]
    folder: Path | None = None  # where its record is
    code: str = ""  # version of the code that made it; empty if unknown
    older: bool = False  # whether that differs from the current version

    def quality(self, metric: str) -> Quality | None:
        """One of our numbers, if it was measured."""
        return None if self.evaluation is None else self.evaluation.quality(metric)


class Effect(NamedTuple):
    """How much lower a number is than that of plain LoRA.

    `ours` is a difference of shares, None if either row was not run; `paper` is in percentage
    points.
    """

    ours: Change | None = None
    paper: float | None = None


@dataclass(frozen=True)
class GridTable:
    """All rows, with the name of recipe and scale, a title, and notes for readers."""

    name: str
    title: str
    rows: Sequence[GridRow]
    notes: Sequence[str]

    def effect(self, row: GridRow, name: str) -> Effect:
        """The effect of a row compared with the plain LoRA row that differs in the method only."""
        plain, metric = self._plain(row), EFFECTS[name]
        if plain is None:
            return Effect()
        paper = None
        if metric in plain.published and metric in row.published:
            paper = plain.published[metric] - row.published[metric]
        before, after = plain.quality(metric), row.quality(metric)
        if before is None or after is None:
            return Effect(None, paper)
        return Effect(difference(before, after), paper)

    def _plain(self, row: GridRow) -> GridRow | None:
        if row.axes.get("method") in (None, *NO_DEFENSE):
            return None
        for plain in self.rows:
            others = {k: v for k, v in plain.axes.items() if k != "method" and v != _ANY}
            alike = all(row.axes.get(axis) in (value, _ANY) for axis, value in others.items())
            if plain.axes.get("method") == PLAIN and alike:
                return plain
        return None

    @property
    def varied(self) -> list[str]:
        """The axes that become columns: those on which rows differ, or else the first axis."""
        names = list(dict.fromkeys(axis for row in self.rows for axis in row.axes))
        differ = [n for n in names if len({row.axes.get(n) for row in self.rows}) > 1]
        return differ or names[:1]

    @property
    def heads(self) -> list[str]:
        """The headings of all columns."""
        return [*self.varied, *(_head(name, self.quality_name) for name in self.metrics)]

    @property
    def quality_name(self) -> str:
        """The name of the quality on clean text: "CA", "ROUGE-L", "CA / ROUGE-L"."""
        metrics = [row.evaluation.metric for row in self.rows if row.evaluation is not None]
        names = dict.fromkeys("CA" if name == "accuracy" else name for name in metrics)
        return " / ".join(names) or "CA"

    @property
    def metrics(self) -> list[str]:
        """The columns of numbers: ours, the paper's where available, and effects against LoRA."""
        published = {name for row in self.rows for name in row.published}
        columns = []
        for name in METRICS:
            theirs = name in published
            if name not in SCORES or theirs or any(row.quality(name) for row in self.rows):
                columns += [name, f"paper_{name}"] if theirs else [name]
        for name in EFFECTS:
            effects = [self.effect(row, name) for row in self.rows]
            theirs = any(effect.paper is not None for effect in effects)
            if theirs or any(effect.ours is not None for effect in effects):
                columns += [name, f"paper_{name}"] if theirs else [name]
        return columns + ["code"] * any(row.older for row in self.rows)

    @property
    def caption(self) -> str:
        """The title, the name, and the axes that are equal for all rows."""
        same = {
            axis: value
            for row in self.rows[:1]
            for axis, value in row.axes.items()
            if axis not in self.varied
        }
        said = ", ".join(f"{axis} {value}" for axis, value in same.items())
        return f"{self.title} ({'; '.join(filter(None, (self.name, said)))})"

    def write(self, folder: Path) -> None:
        """Write `table.json`, `table.md`, `table.csv` and `table.tex`."""
        write_json(folder / "table.json", self.as_values())
        for form in FORMATS:
            self.export(folder / "table", form)

    def export(self, path: Path, form: str) -> Path:
        """Write the table in one of `FORMATS`; `path` has no suffix. Returns the file."""
        suffix, written = FORMATS[form]
        file = path.with_name(path.name + suffix)
        write_text(file, written(self))
        return file

    def as_values(self) -> dict[str, Any]:
        """The table as plain values."""
        return {
            "name": self.name,
            "title": self.title,
            "notes": list(self.notes),
            "rows": [dict(row.axes) | self._values(row) for row in self.rows],
        }

    def markdown(self) -> str:
        """The table as Markdown."""
        table = markdown_table(self.heads, map(self._texts, self.rows))
        lines = [f"{escape(self.caption)}\n", *table]
        notes = [f"\n- {escape(note)}" for note in self.notes]
        return "\n".join(lines) + "\n" + "".join(notes) + ("\n" if notes else "")

    def csv(self) -> str:
        """The table as CSV, with counts and interval bounds in separate columns."""
        rows = self.as_values()["rows"]
        out = io.StringIO()
        writer = csv.DictWriter(out, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows({name: _csv(value) for name, value in row.items()} for row in rows)
        return out.getvalue()

    def latex(self) -> str:
        """The table as LaTeX, for the package booktabs."""
        columns = "l" * len(self.varied) + "r" * len(self.metrics)
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_tex(self.caption)}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _tex_row(self.heads),
            r"\midrule",
            *(_tex_row(self._texts(row)) for row in self.rows),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
        return "\n".join(lines) + "\n"

    def terminal(self) -> Table:
        """The table for the terminal."""
        table = Table(
            title=Text(self.caption),
            caption=Text("\n".join(self.notes), style="dim"),
            caption_justify="left",
            box=box.ROUNDED,
        )
        for place, head in enumerate(self.heads):
            side: Literal["left", "right"] = "left" if place < len(self.varied) else "right"
            table.add_column(head, justify=side, overflow="fold", no_wrap=side == "left")
        for row in self.rows:
            table.add_row(*map(Text, self._texts(row)))
        return table

    def cells(self, row: GridRow) -> list[Cell]:
        """The cells of a row."""
        cells = []
        for axis in self.varied:
            value = row.axes.get(axis)
            number = float(value) if isinstance(value, int | float) else None
            cells.append(Cell(_NOTHING if value is None else str(value), number=number))
        for column in self.metrics:
            name = column.removeprefix("paper_")
            effect = self.effect(row, name) if name in EFFECTS else Effect()
            if column in METRICS:
                cells.append(cell(row.quality(name)))
            elif column in EFFECTS:
                cells.append(_effect_cell(effect.ours))
            elif column == "code":
                cells.append(Cell(f"older ({row.code or 'unknown'})" if row.older else ""))
            else:
                paper = row.published.get(name, effect.paper)
                cells.append(Cell(_NOTHING if paper is None else f"{paper:.2f}", number=paper))
        return cells

    def _values(self, row: GridRow) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in METRICS:
            found, theirs = row.quality(name), row.published.get(name)
            if name in SCORES and found is None and theirs is None:
                continue
            low, high = found.interval if found else (None, None)
            values[name] = found and found.value
            values[f"{name}_low"], values[f"{name}_high"] = low, high
            values[f"{name}_n"] = found and found.total
            values[f"paper_{name}"] = theirs
        for name in EFFECTS:
            ours, paper = self.effect(row, name)
            values[name] = ours and 100 * ours.value
            values[f"{name}_low"] = ours and 100 * ours.low
            values[f"{name}_high"] = ours and 100 * ours.high
            values[f"paper_{name}"] = paper
            both = ours is not None and paper is not None
            values[f"{name}_difference"] = values[name] - paper if both else None
        return values | {"code": row.code or None, "older": row.older}

    def _texts(self, row: GridRow) -> list[str]:
        return [f"{c.value} {c.interval}".strip() for c in self.cells(row)]


FORMATS: dict[str, tuple[str, Callable[[GridTable], str]]] = {
    "markdown": (".md", GridTable.markdown),
    "csv": (".csv", GridTable.csv),
    "latex": (".tex", GridTable.latex),
}
"""Format -> suffix of the file, and the function that renders a table."""


def _effect_cell(effect: Change | None) -> Cell:
    if effect is None:
        return Cell(_NOTHING)
    value, low, high = (100 * number for number in (effect.value, effect.low, effect.high))
    return Cell(f"{value:+.1f}", f"[{low:.1f}, {high:.1f}]", number=value)


def _head(column: str, quality: str) -> str:
    """The heading of a column: "ASR", "ASR (paper)"."""
    name = column.removeprefix("paper_")
    head = quality if name == "ca" else HEADS[name]
    return head if name == column else f"{head} (paper)"


def _csv(value: Any) -> Any:
    """A CSV cell; text that a spreadsheet would read as a formula gets a leading quote."""
    formula = isinstance(value, str) and value.lstrip().startswith(("=", "+", "-", "@"))
    return f"'{value}" if formula else value


def _tex_row(texts: Sequence[str]) -> str:
    r"""A row of a LaTeX table.

    LaTeX reads a `[` or `*` after `\\` or a rule as its argument, even across white space.
    """
    row = " & ".join(map(_tex, texts)) + r" \\"
    return "{}" + row if row.startswith(("[", "*")) else row


def _tex(text: str) -> str:
    """Escape text for LaTeX."""
    special = {c: f"\\{c}" for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        _NOTHING: "--",
    }
    return "".join(special.get(c, c) for c in text)
