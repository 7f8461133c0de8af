"""The report on finished runs as one HTML file.

Runs of one model with the same test form a story: the suspect first, the best defense last, and the
verdict at the top. Other runs form a collection, which begins with their table.

The file is self-contained: it includes styles, scripts, plotly and data, and a
Content-Security-Policy forbids all requests and all scripts except these two. Texts come from
untrusted datasets and models; Jinja escapes them.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from plotly.offline import get_plotlyjs

from w2sdefense.config import flat
from w2sdefense.evaluation.record import RECORD, Record
from w2sdefense.evaluation.states import STATE_WORDS, State
from w2sdefense.io import write_text
from w2sdefense.report.cases import find_cases, most_cases
from w2sdefense.report.charts import (
    DASHES,
    RUN_COLORS,
    Chart,
    accuracy_chart,
    backdoor_chart,
    loss_charts,
)
from w2sdefense.report.grid import GridRow, GridTable
from w2sdefense.report.maps import feature_charts
from w2sdefense.report.runs import Group, Run, groups_of
from w2sdefense.report.tables import Cell, legend, own_verdict, templates, verdict_of
from w2sdefense.report.tradeoffs import anchor, scatter_charts, sweep_charts

SCRIPTS = ("charts.js", "table.js", "cases.js")

_Pairs = list[tuple[str, str]]

MAX_CURVES = RUN_COLORS * len(DASHES)  # maximum distinguishable lines in a loss chart


def write_report(
    runs: Sequence[Run], path: Path, title: str, table: GridTable | None = None
) -> None:
    """Write the report on some runs as one self-contained HTML file, atomically.

    Without a table the runs are a story: the first is the suspect model, and the headline is about
    the last. With a table they are a collection in any order; its rows name the folders of runs.

    Raises:
        DataError: There is no table, and the runs were tested with different triggers or targets.
    """
    write_text(path, render(runs, title, table, path.parent))


def render(
    runs: Sequence[Run], title: str, table: GridTable | None = None, beside: Path = Path()
) -> str:
    """The page as a string, with links relative to `beside`; equal runs give equal pages."""
    shown = table or _story_table(runs, title)
    groups = groups_of(runs)
    kinds = _kinds(runs, shown)
    trained = [run for run in runs if run.record.history]
    template = templates(html=True).get_template("report.html.j2")
    script = "\n".join(map(_asset, SCRIPTS))
    return template.render(
        title=title,
        runs=runs,
        anchors=[anchor(place) for place in range(len(runs))],
        verdict=None if table else verdict_of(runs, runs[-1]),
        metric=runs[0].record.evaluation.metric,
        table=shown,
        rows=_rows(runs, shown, is_story=table is None),
        state_words=STATE_WORDS,
        legend=legend(runs),
        run_colors=RUN_COLORS,
        accuracy=None if table else accuracy_chart(runs),
        backdoor=backdoor_chart(runs) if not table and _asked(runs[:1]) else None,
        scatters=scatter_charts(runs, kinds, groups),
        sweeps=sweep_charts(runs, groups),
        maps=list(_maps(runs, groups)),
        losses=loss_charts(trained[:MAX_CURVES]),
        trained=trained,
        max_curves=MAX_CURVES,
        dashes=DASHES,
        groups=groups,
        cases=[
            find_cases(runs, group.places, most_cases(len(runs), len(groups))) for group in groups
        ],
        asked=_asked(runs),
        provenance=[list(_provenance(run.record)) for run in runs],
        links=[quote(os.path.relpath(run.folder / RECORD, beside)) for run in runs],
        script=script,
        style=_asset("style.css"),
        plotly=_plotly(),
        policy=_policy(script, get_plotlyjs()),
    )


def _asked(runs: Sequence[Run]) -> bool:
    """Whether some run was tested with a trigger."""
    return any(run.record.evaluation.asr for run in runs)


def _story_table(runs: Sequence[Run], title: str) -> GridTable:
    rows = [GridRow({"model": run.title}, run.record.evaluation, {}, run.folder) for run in runs]
    return GridTable("", title, rows, [])


def _rows(
    runs: Sequence[Run], table: GridTable, *, is_story: bool
) -> Iterator[tuple[list[Cell], str | None, State | None]]:
    """The rows of the table: the cells, the anchor of the run, and its state."""
    places: dict[Path | None, int] = {run.folder: place for place, run in enumerate(runs)}
    for index, row in enumerate(table.rows):
        # A story may contain the same folder twice, so folders do not identify its runs.
        place = index if is_story else places.get(row.folder)
        if place is None:
            yield table.cells(row), None, None
            continue
        verdict = verdict_of if is_story else own_verdict
        yield table.cells(row), anchor(place), verdict(runs, runs[place]).state


def _kinds(runs: Sequence[Run], table: GridTable) -> list[str]:
    """The method of every run, as named in the table; else its title."""
    named = {row.folder: str(row.axes["method"]) for row in table.rows if "method" in row.axes}
    return [named.get(run.folder, run.title) for run in runs]


def _maps(
    runs: Sequence[Run], groups: Sequence[Group]
) -> Iterator[tuple[str, list[Chart], list[dict[str, Any]]]]:
    """The feature maps of runs with the same test: title, charts, and traces for the legend."""
    for group in groups:
        if charts := feature_charts([runs[place] for place in group.places]):
            # Of the map with the most traces: some runs lack triggered texts.
            yield group.title, charts, max((chart.figure["data"] for chart in charts), key=len)


def _provenance(record: Record) -> Iterator[tuple[str, _Pairs]]:
    """Details of a run in titled groups, including empty ones."""
    yield "Results", list(_results(record))
    yield "Run", list(_run(record))
    scores = record.evaluation.scores.items()
    yield "Mean scores on clean text", [(name, str(mean)) for name, mean in scores]
    yield "Found by the defense", [(name, str(value)) for name, value in record.found.items()]
    settings = [(name, "not set" if v is None else str(v)) for name, v in flat(record.config)]
    yield "Seeds", [(name, value) for name, value in settings if name.endswith("seed")]
    yield "Settings", [(name, value) for name, value in settings if not name.endswith("seed")]
    yield "Machine", list(record.provenance.machine.items())
    yield "Versions", list(record.provenance.versions.items())
    yield "Fingerprints", list(record.fingerprints.items())


def _results(record: Record) -> Iterator[tuple[str, str]]:
    evaluation = record.evaluation
    yield evaluation.metric, str(evaluation.ca)
    if evaluation.asr is None:
        return
    yield "trigger", str(evaluation.trigger)
    yield "target", str(evaluation.target)
    yield "ASR", str(evaluation.asr)
    yield "floor", str(evaluation.floor)
    for trigger, rate in evaluation.by_trigger.items():
        yield f"ASR of “{trigger}”", str(rate)
    for decoy in evaluation.held_out:
        yield f"held-out decoy “{decoy.trigger}”", str(decoy)


def _run(record: Record) -> Iterator[tuple[str, str]]:
    origin, evaluation = record.provenance, record.evaluation
    yield "started", origin.started
    yield "wall time", f"{origin.seconds:,.0f} s"
    yield "of it, predictions", f"{evaluation.seconds:,.1f} s"
    yield "of these, input defenses", f"{evaluation.defense_seconds:,.1f} s"
    yield "predictions, per text", f"{evaluation.seconds_per_text:,.4f} s"
    yield "peak memory", f"{origin.peak_memory_mb:,.0f} MiB"
    yield "texts cut at the model's length", f"{evaluation.cut_texts:,}"
    yield "triggers cut off", f"{evaluation.cut_triggers:,}"
    yield "clean texts refused", f"{evaluation.refused_texts:,}"
    yield "triggered texts refused", f"{evaluation.refused_triggers:,}"


def _asset(name: str) -> str:
    """The text of a file in the templates folder."""
    return files("w2sdefense.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    """plotly.js, compressed from 5 MB to 2 MB; the browser decompresses it."""
    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def _policy(*scripts: str) -> str:
    """A Content-Security-Policy that allows only these scripts and no requests."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
