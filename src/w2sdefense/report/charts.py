"""What all charts of the page share: their form, their template, colours, whiskers.

Colours are names of CSS variables ("var(--alive)"), which the page resolves when it draws: the
palette lives in the style sheet alone, and light and dark mode need no second set of figures. What
is drawn is in `figures.py` and `tradeoffs.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from w2sdefense.evaluation.metrics import Quality

RUN_COLORS = 6
"""The style sheet has --run-0 ... --run-5, and --label-0 ... --label-5."""

MARKERS = ("circle", "square", "triangle-up", "pentagon", "star", "hexagon")

_AXIS = {
    "gridcolor": "var(--grid)",
    "linecolor": "var(--grid)",
    "zerolinecolor": "var(--grid)",
    "automargin": True,
    "ticklabelstandoff": 4,
    "fixedrange": True,
}

TEMPLATE = go.layout.Template(
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
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "showlegend": False,
        "dragmode": False,
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


@dataclass(frozen=True)
class Chart:
    """A figure and the words around it.

    Attributes:
        title: Heading.
        alt: What it shows, for those who cannot see it.
        figure: The figure as plain values, ready for JSON.
    """

    title: str
    alt: str
    figure: dict[str, Any]


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
    """The colour of a run ("run") or of a label ("label"); they come again after six."""
    return f"var(--{kind}-{index % RUN_COLORS})"


def plain(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain values, ready for JSON; names are escaped: plotly reads HTML."""
    values: dict[str, Any] = json.loads(figure.to_json())
    for trace in values["data"]:
        if "name" in trace:
            trace["name"] = escape(trace["name"])
    return values
