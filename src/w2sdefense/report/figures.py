"""The charts of the page as plotly figures: shares with intervals, loss curves, feature maps.

Sizes fit a phone; the width is the page's. All texts that come from runs are escaped, because
plotly reads a subset of HTML. What compares many runs is in `tradeoffs.py`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from w2sdefense.evaluation.metrics import Quality
from w2sdefense.evaluation.record import Sample
from w2sdefense.report.cases import answer_name
from w2sdefense.report.charts import MARKERS, RUN_COLORS, TEMPLATE, Chart, color, plain, whiskers
from w2sdefense.report.rows import cell, verdict_of
from w2sdefense.report.runs import Run
from w2sdefense.report.tsne import tsne

LOSS_TITLES = {
    "loss": "Total loss",
    "ce": "Cross entropy (CE)",
    "kd": "Logit distillation (KD)",
    "fa": "Feature alignment (FA)",
    "eval_accuracy": "Accuracy on validation data",
}
"""How the usual names are written, in display order; other names follow as they are."""

DASHES = ("solid", "dash", "dot", "dashdot")
"""Lines of one colour are told apart by these."""

_HOVER_TEXT = 280


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
    states = [verdict_of(runs, run).state for run in runs]
    evaluations = [run.record.evaluation for run in runs]
    with_trigger = _Bars(
        "with the trigger",
        -0.18,
        0.32,
        [f"var(--{s})" for s in states],
        [e.asr for e in evaluations],
    )
    without = _Bars(
        "without it", 0.18, 0.32, ["var(--neutral)"] * len(runs), [e.floor for e in evaluations]
    )
    target = evaluations[0].target
    return _bar_chart(
        f"Other texts answered “{target}”", [run.title for run in runs], [with_trigger, without]
    )


def accuracy_chart(runs: Sequence[Run]) -> Chart:
    """CA of every run, or what the task has in place of it."""
    rates = [run.record.evaluation.ca for run in runs]
    metric = runs[0].record.evaluation.metric
    bars = _Bars(metric, 0.0, 0.5, ["var(--accuracy)"] * len(runs), rates)
    title = f"{metric[0].upper()}{metric[1:]} on clean text"
    return _bar_chart(title, [run.title for run in runs], [bars])


def loss_charts(runs: Sequence[Run]) -> list[Chart]:
    """One chart for every loss that any run recorded, with a line for every run that did."""
    present = {name for run in runs for point in run.record.history for name in point.losses}
    names = [name for name in LOSS_TITLES if name in present]
    return [_loss_chart(runs, name) for name in (*names, *sorted(present - set(names)))]


def feature_charts(runs: Sequence[Run]) -> list[Chart]:
    """One t-SNE map for every run that saved features; the text on hover.

    The traces are the same in every map: one for the clean texts of each label, then, if there is
    a trigger, one for the triggered texts.
    """
    charts = []
    for run in runs:
        groups = [name for name in ("clean", "triggered") if name in run.features]
        embedding = tsne([run.features[name] for name in groups])
        if embedding is None:
            continue
        figure = go.Figure()
        for name, rows, points in zip(groups, embedding.rows, embedding.points, strict=True):
            owners = run.samples if name == "clean" else run.triggered
            figure.add_traces(list(_traces(run, name, [owners[row] for row in rows], points)))
        hidden = {"visible": False, "fixedrange": False, "automargin": False}
        figure.update_layout(
            template=TEMPLATE,
            height=320,
            xaxis=hidden,
            yaxis=hidden,
            hovermode="closest",
            hoverdistance=12,
        )
        alt = f"t-SNE map of the features of {run.title}, one point per text"
        charts.append(Chart(run.title, alt, plain(figure)))
    return charts


def _bar_chart(title: str, names: Sequence[str], series: Sequence[_Bars]) -> Chart:
    """Horizontal bars from 0 to 100 % with whiskers, the shares written at the right edge."""
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
    ticks = [escape(textwrap.shorten(name, 20, placeholder="…")) for name in names]
    figure.update_layout(
        template=TEMPLATE,
        height=44 + len(names) * (58 if len(series) > 1 else 44),
        margin={"l": 8, "r": 64, "t": 4, "b": 28},
        xaxis={"range": [0, 1], "tickformat": ".0%", "dtick": 0.25},
        yaxis={
            "range": [len(names) - 0.5, -0.5],
            "tickvals": list(range(len(names))),
            "ticktext": ticks,
            "tickfont": {"color": "var(--ink)", "size": 14},
            "showgrid": False,
            "zeroline": False,
            "ticklabelstandoff": 8,
        },
    )
    return Chart(title, f"Bar chart: {title}, for {', '.join(names)}", plain(figure))


def _loss_chart(runs: Sequence[Run], name: str) -> Chart:
    figure = go.Figure()
    is_share = name.endswith("accuracy")
    for index, run in enumerate(runs):
        points = [point for point in run.record.history if name in point.losses]
        if not points:
            continue
        figure.add_trace(
            go.Scatter(
                name=run.title,
                x=[point.step for point in points],
                y=[point.losses[name] for point in points],
                customdata=[point.epoch for point in points],
                # A line through few points hides where they are, and one point has no line at all.
                mode="lines+markers" if len(points) <= 20 else "lines",
                line={"color": color("run", index), "width": 2, "dash": _dash(index)},
                marker={"size": 6},
                hovertemplate=f"<b>%{{fullData.name}}</b> %{{y:{'.1%' if is_share else '.4~g'}}}"
                "<br>step %{x}, epoch %{customdata:.2f}<extra></extra>",
            )
        )
    title = LOSS_TITLES.get(name, name)
    figure.update_layout(
        template=TEMPLATE,
        height=220,
        hovermode="closest",
        margin={"l": 8, "r": 12, "t": 8, "b": 36},
        xaxis={"title": {"text": "step", "standoff": 6}, "nticks": 6, "rangemode": "tozero"},
        yaxis={"nticks": 5, "tickformat": ".0%"}
        if is_share
        else {"nticks": 5, "rangemode": "tozero"},
    )
    return Chart(title, f"Line chart: {title} by training step", plain(figure))


def _dash(index: int) -> str:
    return DASHES[index // RUN_COLORS % len(DASHES)]


def _traces(
    run: Run, group: str, owners: Sequence[Sample], points: np.ndarray
) -> Iterator[go.Scatter]:
    """The points of the clean texts by label, or those of the triggered texts."""
    names = run.record.label_names
    if group == "triggered":
        marker = {"symbol": "x", "size": 7, "color": "var(--trigger)", "opacity": 0.85}
        yield _scatter("with the trigger", marker, points, [_hover(run, s, True) for s in owners])
        return
    for index, label in enumerate(names):
        mine = [row for row, sample in enumerate(owners) if sample.reference == index]
        marker = {
            "symbol": MARKERS[index % RUN_COLORS],
            "size": 7,
            "color": color("label", index),
            "opacity": 0.75,
        }
        yield _scatter(
            f"clean, {label}",
            marker,
            points[mine],
            [_hover(run, owners[row], False) for row in mine],
        )


def _scatter(
    name: str, marker: dict[str, Any], points: np.ndarray, texts: Sequence[str]
) -> go.Scatter:
    # Two decimals are a tenth of a pixel, and keep the page small.
    return go.Scatter(
        name=name,
        mode="markers",
        marker=marker,
        x=[round(float(x), 2) for x, _ in points],
        y=[round(float(y), 2) for _, y in points],
        text=list(texts),
        hovertemplate="%{text}<extra></extra>",
    )


def _hover(run: Run, sample: Sample, triggered: bool) -> str:
    """The text of a point, wrapped to fit a phone, with its label and its answer."""
    names = run.record.label_names
    text = sample.triggered_text if triggered else sample.text
    answer = sample.triggered_answer if triggered else sample.answer
    short = text or ""
    if len(short) > _HOVER_TEXT:
        short = short[:_HOVER_TEXT] + "…"
    lines = [escape(line) for line in textwrap.wrap(short, 44)]
    facts = f"{answer_name(names, sample.reference)} → {answer_name(names, answer)}"
    lines.append(f"<i>true label → answer:</i> <b>{escape(facts)}</b>")
    return "<br>".join(lines)
