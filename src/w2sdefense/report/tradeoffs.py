"""Charts that compare many runs: clean accuracy against attack success, and sweeps of a setting.

Only runs with the same test share a chart. A Pareto front uses the measured values; where intervals
overlap, another test set may give another front.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from w2sdefense.report.charts import DASHES, MARKERS, RUN_COLORS, Chart, chart_of, color, whiskers
from w2sdefense.report.runs import SWEEPS, TITLES, Group, Run, Series, sweeps_of
from w2sdefense.report.tables import cell

FRONT = "Pareto front"

FEWEST_POINTS = 3  # minimum runs in a scatter chart; the table suffices for two
METRICS = {"ca": ("CA", "var(--accuracy)"), "asr": ("ASR", "var(--alive)")}
"""Metric -> name and line colour in a sweep; the floor is drawn in addition."""

_SHARES = {"tickformat": ".0%", "range": [-0.04, 1.04], "dtick": 0.25}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the Pareto-optimal points (CA, ASR), by ascending CA.

    A point is not optimal if another one is at least as good in both and better in one.
    """
    front: list[int] = []
    best = math.inf
    for place in sorted(range(len(points)), key=lambda p: (-points[p][0], points[p][1])):
        if points[place][1] < best or (front and points[place] == points[front[-1]]):
            front.append(place)
            best = points[place][1]
    return front[::-1]


def scatter_charts(
    runs: Sequence[Run], kinds: Sequence[str], groups: Sequence[Group]
) -> list[Chart]:
    """ASR over CA for every group with enough runs.

    All charts have the same traces: one for each kind (the method, which determines colour and
    symbol of a run), and the front.
    """
    charts = []
    for group in groups:
        known = [(p, runs[p].record.evaluation) for p in group.places]
        places = [p for p, found in known if found.quality("asr") and found.quality("ca")]
        if len(places) >= FEWEST_POINTS:
            charts.append(_scatter_chart(runs, kinds, places, group.title))
    return charts


def sweep_charts(runs: Sequence[Run], groups: Sequence[Group]) -> list[Chart]:
    """CA, ASR and floor over every setting that is the only difference between runs of a group."""
    return [
        _sweep_chart(runs, series, axis, group.title)
        for axis in SWEEPS
        for group in groups
        if (series := sweeps_of(runs, group.places, axis))
    ]


def _value(run: Run, metric: str) -> float:
    found = run.record.evaluation.quality(metric)
    return math.nan if found is None else found.value


def _scatter_chart(
    runs: Sequence[Run], kinds: Sequence[str], places: Sequence[int], title: str
) -> Chart:
    figure = go.Figure()
    for index, kind in enumerate(dict.fromkeys(kinds)):
        mine = [place for place in places if kinds[place] == kind]
        sign = MARKERS[(index + index // RUN_COLORS) % len(MARKERS)]
        marker = {"symbol": sign, "size": 11, "color": color("run", index)}
        points = _points(runs, mine, TITLES.get(kind, kind), marker, "asr", "var(--neutral)")
        x = [_value(runs[place], "ca") for place in mine]
        points.update(x=x, error_x=_bars(runs, mine, "ca", "var(--neutral)"))
        figure.add_trace(points)
    values = [(_value(runs[place], "ca"), _value(runs[place], "asr")) for place in places]
    front = [values[place] for place in pareto_front(values)]
    figure.add_trace(
        go.Scatter(
            name=FRONT,
            mode="lines",
            x=[ca for ca, _ in front],
            y=[asr for _, asr in front],
            # Points to the left of and above this line are worse than one of its corners.
            line={"color": "var(--muted)", "width": 1.5, "dash": "dot", "shape": "vh"},
            hoverinfo="skip",
        )
    )
    figure.update_layout(
        height=340,
        margin={"l": 8, "r": 16, "t": 10, "b": 40},
        xaxis={"title": {"text": "CA", "standoff": 6}, "tickformat": ".0%", "nticks": 6},
        yaxis={"title": {"text": "ASR", "standoff": 6}, **_SHARES},
    )
    return chart_of(figure, title, f"Scatter chart: ASR over CA, one point per run, {title}")


def _sweep_chart(runs: Sequence[Run], series: Sequence[Series], axis: str, title: str) -> Chart:
    values = sorted({value for each in series for value, _ in each.points})
    figure = go.Figure()
    for index, each in enumerate(series):
        # Evenly spaced, because ranks double and weights range from 0.001 to 5.
        points = [(values.index(value), place) for value, place in each.points]
        dash = DASHES[index % len(DASHES)]
        figure.add_trace(_line(runs, points, "floor", "var(--neutral)", "dot"))
        for metric, (name, line) in METRICS.items():
            figure.add_trace(_line(runs, points, metric, line, dash))
            known = [(x, p) for x, p in points if runs[p].record.evaluation.quality(metric)]
            marker = {"color": line, "size": 8, "symbol": MARKERS[index % len(MARKERS)]}
            places = [place for _, place in known]
            dots = _points(runs, places, f"{name}, {each.title}", marker, metric, line)
            figure.add_trace(dots.update(x=[x for x, _ in known]))
    figure.update_layout(
        height=260,
        margin={"l": 8, "r": 12, "t": 10, "b": 40},
        xaxis={
            "title": {"text": axis, "standoff": 6},
            "tickvals": list(range(len(values))),
            "ticktext": [f"{value:g}" for value in values],
            "range": [-0.4, len(values) - 0.6],
        },
        yaxis=_SHARES,
    )
    # The heading names the series in the order of their lines, which differ by their dashes.
    head = ": ".join(filter(None, [title, "; ".join(each.title for each in series)]))
    alt = f"Line chart: CA, ASR and floor by {axis}, {head}"
    return chart_of(figure, f"{axis.capitalize()} ({head})", alt)


def _line(
    runs: Sequence[Run], points: Sequence[tuple[int, int]], metric: str, line: str, dash: str
) -> go.Scatter:
    """A line through the mean of the runs at each value, since there may be several seeds."""
    found: dict[int, list[float]] = {}
    for x, place in points:
        if runs[place].record.evaluation.quality(metric):
            found.setdefault(x, []).append(_value(runs[place], metric))
    return go.Scatter(
        mode="lines",
        x=list(found),
        y=[statistics.fmean(values) for values in found.values()],
        line={"color": line, "width": 2 if dash != "dot" else 1.5, "dash": dash},
        hoverinfo="skip",
    )


def _points(
    runs: Sequence[Run],
    places: Sequence[int],
    name: str,
    marker: dict[str, Any],
    metric: str,
    line: str,
) -> go.Scatter:
    """A point per run with its interval; `ids` hold the anchors that the points link to."""
    return go.Scatter(
        name=name,
        mode="markers",
        marker=marker,
        y=[_value(runs[place], metric) for place in places],
        error_y=_bars(runs, places, metric, line),
        ids=[anchor(place) for place in places],
        text=[_hover(runs[place]) for place in places],
        hovertemplate="%{text}<extra></extra>",
    )


def _bars(runs: Sequence[Run], places: Sequence[int], metric: str, line: str) -> dict[str, Any]:
    return whiskers([runs[place].record.evaluation.quality(metric) for place in places], line)


def _hover(run: Run) -> str:
    lines = [f"<b>{escape(run.title)}</b>"]
    for metric, name in (("ca", "CA"), ("asr", "ASR"), ("floor", "Floor")):
        written = cell(run.record.evaluation.quality(metric))
        lines.append(f"{name} {written.value} {written.interval} {written.counts}".rstrip())
    return "<br>".join(lines)


def anchor(place: int) -> str:
    """The anchor of a run's section on the page."""
    return f"run-{place}"
