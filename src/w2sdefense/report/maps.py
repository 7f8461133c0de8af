"""t-SNE maps of the features of clean and triggered text (the paper's Figure 4).

Every model has its own embedding, as in the paper. Positions and distances cannot be compared
between maps; a map only shows which groups lie together.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from w2sdefense.evaluation.record import Sample
from w2sdefense.report.cases import answer_name
from w2sdefense.report.charts import MARKERS, RUN_COLORS, Chart, chart_of, color
from w2sdefense.report.runs import Run

MAX_POINTS = 400
"""Maximum points per group: enough to see the groups, few enough to embed in seconds on a core."""

PERPLEXITY = 30.0
SEED = 0

_HOVER_TEXT = 280


def tsne(
    groups: Sequence[np.ndarray], *, max_points: int = MAX_POINTS
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Embed groups of features (n, d) in one plane; equal input gives equal output.

    Groups are sampled down to `max_points` rows.

    Returns:
        For each group, the indices of the kept rows, ascending, and their positions, (rows, 2).
        Empty if there are fewer than four points, values that are not finite, or only equal points.
    """
    rows = [
        np.sort(np.random.default_rng(SEED).choice(n, min(n, max_points), replace=False))
        for n in map(len, groups)
    ]
    kept = [np.asarray(group, dtype=np.float64)[r] for group, r in zip(groups, rows, strict=True)]
    features = np.concatenate(kept) if kept else np.empty((0, 0))
    if len(features) < 4 or not np.isfinite(features).all() or np.ptp(features, axis=0).max() == 0:
        return []
    borders = np.cumsum([len(r) for r in rows])[:-1]
    return list(zip(rows, np.split(_embed(features), borders), strict=True))


def _embed(features: np.ndarray) -> np.ndarray:
    # Imported here, because it takes seconds and a table in the terminal does not need it.
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
    points: np.ndarray = model.fit_transform(features)
    return points


def feature_charts(runs: Sequence[Run]) -> list[Chart]:
    """One map for every run that saved features; hovering shows the text.

    All maps have the same traces: one for the clean texts of each label, and, if there is a
    trigger, one for the triggered texts.
    """
    charts = []
    for run in runs:
        groups = [name for name in ("clean", "triggered") if name in run.features]
        embedding = tsne([run.features[name] for name in groups])
        if not embedding:
            continue
        figure = go.Figure()
        for name, (rows, points) in zip(groups, embedding, strict=True):
            owners = run.samples if name == "clean" else run.triggered
            figure.add_traces(list(_traces(run, name, [owners[row] for row in rows], points)))
        hidden = {"visible": False, "fixedrange": False, "automargin": False}
        figure.update_layout(height=320, xaxis=hidden, yaxis=hidden, hoverdistance=12)
        alt = f"t-SNE map of the features of {run.title}, one point per text"
        charts.append(chart_of(figure, run.title, alt))
    return charts


def _traces(
    run: Run, group: str, owners: Sequence[Sample], points: np.ndarray
) -> Iterator[go.Scatter]:
    """The points of the clean texts, one trace per label; or those of the triggered texts."""
    if group == "triggered":
        marker = {"symbol": "x", "size": 7, "color": "var(--trigger)", "opacity": 0.85}
        yield _scatter("with the trigger", marker, points, [_hover(run, s, True) for s in owners])
        return
    for index, label in enumerate(run.record.label_names):
        mine = [row for row, sample in enumerate(owners) if sample.reference == index]
        symbol = MARKERS[index % RUN_COLORS]
        marker = {"symbol": symbol, "size": 7, "color": color("label", index), "opacity": 0.75}
        texts = [_hover(run, owners[row], False) for row in mine]
        yield _scatter(f"clean, {label}", marker, points[mine], texts)


def _scatter(
    name: str, marker: dict[str, Any], points: np.ndarray, texts: Sequence[str]
) -> go.Scatter:
    # Two decimals keep the page small and correspond to a tenth of a pixel.
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
    text = (sample.triggered_text if triggered else sample.text) or ""
    answer = sample.triggered_answer if triggered else sample.answer
    if len(text) > _HOVER_TEXT:
        text = text[:_HOVER_TEXT] + "…"
    lines = [escape(line) for line in textwrap.wrap(text, 44)]
    facts = f"{answer_name(names, sample.reference)} → {answer_name(names, answer)}"
    lines.append(f"<i>true label → answer:</i> <b>{escape(facts)}</b>")
    return "<br>".join(lines)
