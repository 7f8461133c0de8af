"""One HTML file that shows what a defense did, for people who would rather look than read.

The file needs nothing else: styles, scripts, plotly and data are inside, and a
Content-Security-Policy forbids every request and every script but the two of ours. Texts come from
untrusted datasets and models; Jinja escapes them. What is said is the verdict's business, what is
drawn the figures'.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from w2sdefense.evaluation.record import Record
from w2sdefense.io import write_text
from w2sdefense.report.figures import (
    RUN_COLORS,
    accuracy_chart,
    backdoor_chart,
    feature_charts,
    loss_charts,
)
from w2sdefense.report.flips import MAX_FLIPS, find_flips
from w2sdefense.report.rows import headers, legend, results, verdict_of
from w2sdefense.report.runs import Run


def write_report(runs: Sequence[Run], path: Path, title: str) -> None:
    """Write the report on some runs as one self-contained HTML file, atomically.

    Args:
        runs: As `load_runs` returns them. The first is the suspect model, the last the one that
            the headline speaks about.
        path: The file; replaced if it exists.
        title: Title of the page, for example the names of the model and the dataset.

    Raises:
        DataError: The runs were tested with different triggers or targets.
    """
    write_text(path, render(runs, title))


def render(runs: Sequence[Run], title: str) -> str:
    """The page as a string; equal runs give an equal page."""
    flips = find_flips(runs)
    features = feature_charts(runs)
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=title,
        runs=runs,
        verdict=verdict_of(runs, runs[-1]),
        headers=headers(runs),
        legend=legend(runs),
        metric=runs[0].record.evaluation.metric,
        rows=results(runs),
        run_colors=RUN_COLORS,
        accuracy=accuracy_chart(runs),
        backdoor=backdoor_chart(runs) if runs[0].record.evaluation.asr else None,
        losses=loss_charts(runs),
        features=features,
        # A run may have no triggered texts; the legend is that of the fullest map.
        feature_traces=max((chart.figure["data"] for chart in features), key=len, default=[]),
        flips=flips[:MAX_FLIPS],
        flip_total=len(flips),
        provenance=[list(_provenance(run.record)) for run in runs],
        script=_asset("page.js"),
        style=_asset("style.css"),
        plotly=_plotly(),
        policy=_policy(_asset("page.js"), get_plotlyjs()),
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("w2sdefense.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    """A file of the templates folder as it is."""
    loader = _environment().loader
    if loader is None:
        raise RuntimeError("the template environment has no loader")
    return loader.get_source(_environment(), name)[0]


@cache
def _plotly() -> str:
    """plotly.js, compressed: 2 MB in the page instead of 5. The browser unpacks it."""
    packed = gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)
    return base64.b64encode(packed).decode()


def _policy(*scripts: str) -> str:
    """A Content-Security-Policy under which only these scripts run and nothing is fetched."""
    hashes = (base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _provenance(record: Record) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Everything that says where a run's numbers come from, as titled groups of pairs."""
    origin = record.provenance
    yield (
        "Run",
        [
            ("started", origin.started),
            ("wall time", f"{origin.seconds:,.0f} s"),
            ("of it, predictions", f"{record.evaluation.seconds:,.1f} s"),
            ("of these, input defenses", f"{record.evaluation.defense_seconds:,.1f} s"),
            ("predictions, per text", f"{record.evaluation.seconds_per_text:,.4f} s"),
            ("peak memory", f"{origin.peak_memory_mb:,.0f} MiB"),
            ("texts cut at the model's length", f"{record.evaluation.cut_texts:,}"),
            ("triggers cut off", f"{record.evaluation.cut_triggers:,}"),
            ("clean texts refused", f"{record.evaluation.refused_texts:,}"),
            ("triggered texts refused", f"{record.evaluation.refused_triggers:,}"),
        ],
    )
    if record.evaluation.scores:
        scores = record.evaluation.scores.items()
        yield "Mean scores on clean text", [(name, str(mean)) for name, mean in scores]
    if record.found:
        yield "Found by the defense", [(name, str(value)) for name, value in record.found.items()]
    yield "Settings", list(_flatten(record.config))
    yield "Machine", list(origin.machine.items())
    yield "Versions", list(origin.versions.items())
    yield "Fingerprints", list(record.fingerprints.items())


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as "student.model" -> "smollm2-135m"."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", "not set" if value is None else str(value)
