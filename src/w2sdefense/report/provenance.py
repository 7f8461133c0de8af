"""Everything that says where the numbers of a run come from, in titled groups of pairs.

It is what the record says, and nothing is worked out; the record itself has more (loss curves).
"""

from __future__ import annotations

from collections.abc import Iterator

from w2sdefense.evaluation.record import Record
from w2sdefense.report.axes import flat

Pairs = list[tuple[str, str]]


def provenance(record: Record) -> Iterator[tuple[str, Pairs]]:
    """The groups of a record, empty ones included."""
    yield "Results", list(_results(record))
    yield "Run", list(_run(record))
    scores = record.evaluation.scores.items()
    yield "Mean scores on clean text", [(name, str(mean)) for name, mean in scores]
    yield "Found by the defense", [(name, str(value)) for name, value in record.found.items()]
    settings = [(name, _write(value)) for name, value in flat(record.config)]
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


def _write(value: object) -> str:
    return "not set" if value is None else str(value)
