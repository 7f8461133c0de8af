"""Records of runs that nobody made."""

from typing import Any

from w2sdefense.evaluation.record import Evaluation, Provenance, Record, Sample


def sample(
    name: str, text: str, reference: Any, answer: Any, target: Any = 0, **more: Any
) -> Sample:
    """A text with its answer, and what else is said of it; `target` is what a trigger aims at."""
    if more.get("triggered_text") is not None:
        more["triggered_is_target"] = more["triggered_answer"] == target
    more |= {"reference": reference, "answer": answer, "is_target": answer == target}
    return Sample(id=name, text=text, **more)


def record(evaluation: Evaluation, **changes: Any) -> Record:
    """The record of a defense on a machine that nobody knows."""
    values: dict[str, Any] = {
        "name": "w2s",
        "stage": "defend",
        "config": {},
        "label_names": ("negative", "positive"),
        "evaluation": evaluation,
        "fingerprints": {},
        "provenance": Provenance(
            versions={}, machine={}, started="2026-01-01T00:00:00Z", seconds=1.0, peak_memory_mb=1.0
        ),
    }
    return Record(**(values | changes))
