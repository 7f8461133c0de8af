"""The charts of the page: their common style, bar charts with intervals, and loss curves.

Colours are names of CSS variables ("var(--alive)"), which the page resolves when it draws, so light
and dark mode share the figures. Sizes fit a phone; the width is that of the page. All texts from
runs are escaped, because plotly interprets a subset of HTML.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from w2sdefense.evaluation.metrics import Quality
from w2sdefense.report.runs import Run
from w2sdefense.report.tables import cell, verdict_of

RUN_COLORS = 6  # the style sheet has --run-0 ... --run-5, and --label-0 ... --label-5.
MARKERS = ("circle", "square", "triangle-up", "pentagon", "star", "hexagon")

DASHES = ("solid", "dash", "dot", "dashdot")  # distinguish lines of the same colour
LOSS_TITLES = {
    "loss": "Total loss",
    "ce": "Cross entropy (CE)",
    "kd": "Logit distillation (KD)",
    "fa": "Feature alignment (FA)",
    "eval_accuracy": "Accuracy on validation data",
}
"""Titles of known losses, in display order; other names follow unchanged."""

_AXIS = {
    "gridcolor": "var(--grid)",
    "linecolor": "var(--grid)",
    "zerolinecolor": "var(--grid)",
    "automargin": True,
    "ticklabelstandoff": 4,
    "fixedrange": True,
}

_TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--muted)"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {
            "align": "left",
            "bgcolor": "var(--tip)",
            "bordercolor": "var(--grid)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": "var(--ink)"},
        },
        "hovermode": "closest",
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "showlegend": False,
        "dragmode": False,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


@dataclass(frozen=True)
class Chart:
    """A figure as plain values, its heading, and its alternative text."""

    title: str
    alt: str
    figure: dict[str, Any]


def chart_of(figure: go.Figure, title: str, alt: str) -> Chart:
    """Make a chart with the common style; trace names are escaped, as plotly interprets HTML."""
    figure.update_layout(template=_TEMPLATE)
    values: dict[str, Any] = json.loads(figure.to_json())
    for trace in values["data"]:
        if "name" in trace:
            trace["name"] = escape(trace["name"])
    return Chart(title, alt, values)


def whiskers(rates: Sequence[Quality | None], color: str = "var(--ink)") -> dict[str, Any]:
    """95 % intervals as asymmetric error bars around the shares."""
    known = [rate if rate and rate.total else None for rate in rates]
    return {
        "type": "data",
        "symmetric": False,
        "array": [rate.interval[1] - rate.value if rate else 0.0 for rate in known],
        "arrayminus": [rate.value - rate.interval[0] if rate else 0.0 for rate in known],
        "color": color,
        "thickness": 1.5,
        "width": 4,
    }


def color(kind: str, index: int) -> str:
    """The colour of a run ("run") or of a label ("label"); colours repeat after six."""
    return f"var(--{kind}-{index % RUN_COLORS})"


@dataclass(frozen=True, slots=True)
class _Bars:
    """One bar per run: an offset within the row, colours, and the rates."""

    name: str
    offset: float
    width: float
    colors: list[str]
    rates: Sequence[Quality | None]


def backdoor_chart(runs: Sequence[Run]) -> Chart:
    """ASR of every run beside its floor, coloured by verdict."""
    evaluations = [run.record.evaluation for run in runs]
    states = [f"var(--{verdict_of(runs, run).state})" for run in runs]
    neutral = ["var(--neutral)"] * len(runs)
    bars = [
        _Bars("with the trigger", -0.18, 0.32, states, [e.asr for e in evaluations]),
        _Bars("without it", 0.18, 0.32, neutral, [e.floor for e in evaluations]),
    ]
    return _bar_chart(f"Other texts answered “{evaluations[0].target}”", runs, bars)


def accuracy_chart(runs: Sequence[Run]) -> Chart:
    """CA of every run, or the task's own metric."""
    rates = [run.record.evaluation.ca for run in runs]
    metric = runs[0].record.evaluation.metric
    bars = _Bars(metric, 0.0, 0.5, ["var(--accuracy)"] * len(runs), rates)
    return _bar_chart(f"{metric[0].upper()}{metric[1:]} on clean text", runs, [bars])


def _bar_chart(title: str, runs: Sequence[Run], series: Sequence[_Bars]) -> Chart:
    """Horizontal bars from 0 to 100 % with whiskers, the shares written at the right edge."""
    names = [run.title for run in runs]
    figure = go.Figure()
    for bars in series:
        places = [row + bars.offset for row in range(len(names))]
        cells = [cell(rate) for rate in bars.rates]
        figure.add_trace(
            go.Bar(
                orientation="h",
                name=bars.name,
                y=places,
                x=[rate.value if rate and rate.total else None for rate in bars.rates],
                width=bars.width,
                marker={"color": bars.colors, "cornerradius": 3},
                error_x=whiskers(bars.rates),
                customdata=[
                    [escape(name), c.value, c.interval, c.counts]
                    for name, c in zip(names, cells, strict=True)
                ],
                hovertemplate=f"<b>%{{customdata[0]}}</b>, {bars.name}<br>%{{customdata[1]}} "
                "%{customdata[2]}<br>%{customdata[3]}<extra></extra>",
            )
        )
        for place, written in zip(places, cells, strict=True):
            figure.add_annotation(
                text=written.value,
                xref="paper",
                x=1.0,
                xanchor="left",
                xshift=10,
                y=place,
                showarrow=False,
                font={"color": "var(--ink)", "size": 14},
            )
    figure.update_layout(
        height=44 + len(names) * (58 if len(series) > 1 else 44),
        margin={"l": 8, "r": 64, "t": 4, "b": 28},
        xaxis={"range": [0, 1], "tickformat": ".0%", "dtick": 0.25},
        yaxis={
            "range": [len(names) - 0.5, -0.5],
            "tickvals": list(range(len(names))),
            "ticktext": [escape(textwrap.shorten(n, 20, placeholder="…")) for n in names],
            "tickfont": {"color": "var(--ink)", "size": 14},
            "showgrid": False,
            "zeroline": False,
            "ticklabelstandoff": 8,
        },
    )
    return chart_of(figure, title, f"Bar chart: {title}, for {', '.join(names)}")


def loss_charts(runs: Sequence[Run]) -> list[Chart]:
    """One chart for every loss that any run recorded, with a line for every run that did."""
    present = {name for run in runs for point in run.record.history for name in point.losses}
    names = [name for name in LOSS_TITLES if name in present]
    return [_loss_chart(runs, name) for name in (*names, *sorted(present - set(names)))]


def _loss_chart(runs: Sequence[Run], name: str) -> Chart:
    figure = go.Figure()
    is_share = name.endswith("accuracy")
    for index, run in enumerate(runs):
        points = [point for point in run.record.history if name in point.losses]
        if not points:
            continue
        dash = DASHES[index // RUN_COLORS % len(DASHES)]
        figure.add_trace(
            go.Scatter(
                name=run.title,
                x=[point.step for point in points],
                y=[point.losses[name] for point in points],
                customdata=[point.epoch for point in points],
                # Markers show where few points are; a single point has no line.
                mode="lines+markers" if len(points) <= 20 else "lines",
                line={"color": color("run", index), "width": 2, "dash": dash},
                marker={"size": 6},
                hovertemplate=f"<b>%{{fullData.name}}</b> %{{y:{'.1%' if is_share else '.4~g'}}}"
                "<br>step %{x}, epoch %{customdata:.2f}<extra></extra>",
            )
        )
    scale = {"tickformat": ".0%"} if is_share else {"rangemode": "tozero"}
    figure.update_layout(
        height=220,
        margin={"l": 8, "r": 12, "t": 8, "b": 36},
        xaxis={"title": {"text": "step", "standoff": 6}, "nticks": 6, "rangemode": "tozero"},
        yaxis={"nticks": 5, **scale},
    )
    title = LOSS_TITLES.get(name, name)
    return chart_of(figure, title, f"Line chart: {title} by training step")
