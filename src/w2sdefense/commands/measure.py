"""Measures a model for the record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from w2sdefense.cli.display import Display
from w2sdefense.commands.folders import history_of, notes_of
from w2sdefense.commands.processes import DividedPredictor
from w2sdefense.config import Settings
from w2sdefense.data import Dataset, fingerprint
from w2sdefense.data.splits import near_notes
from w2sdefense.defenses.base import Defended, victim_of
from w2sdefense.evaluation.evaluate import EvaluationResult, TestSet, evaluate
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import HeldOutDecoy, Record, Stage, save_record
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.victim import Victim


@dataclass(frozen=True)
class Measured:
    """What was measured of a model, to be saved when everything that it speaks of is written."""

    record: Record
    result: EvaluationResult

    def save(self, folder: Path) -> None:
        """Write record, samples and features."""
        save_record(folder, self.record, self.result.samples, self.result.features)


def measure(
    model: Defended,
    test: TestSet,
    run: Settings,
    folder: Path,
    stage: Stage,
    data: Dataset,
    clock: Clock,
    display: Display,
    fingerprints: Mapping[str, str] | None = None,
) -> Measured:
    """Answer the test texts, in all processes.

    Args:
        model: What is measured.
        test: The test texts.
        run: Settings of the run.
        folder: Folder of the run, which names it.
        stage: What the run did.
        data: The dataset that the test texts are from.
        clock: Started with the run.
        display: Shows the progress.
        fingerprints: More of them than those of the test texts and the model.
    """
    victim = victim_of(model)
    prints = {"test": fingerprint(data.test), "model": weights_fingerprint(victim.model)}
    if test.attack is not None:
        prints["triggered"] = fingerprint(test.triggered)
    progress = display.texts(f"evaluate {folder.name}", len(test))
    result = evaluate(DividedPredictor(model), victim.task, test, progress)
    evaluation = result.evaluation.model_copy(
        update={
            "labels_by_position": getattr(victim.model, "labels_by_position", False),
            "held_out": _held_out(victim),
        }
    )
    record = Record(
        name=folder.name,
        stage=stage,
        config=run.model_dump(mode="json"),
        label_names=victim.label_names,
        evaluation=evaluation,
        history=history_of(model.history),
        fingerprints=prints | dict(fingerprints or {}),
        found=model.found,
        provenance=clock.provenance(),
        notes=(
            *model.notes,
            *data.notes,
            *near_notes(data),
            *notes_of(data.dropped, result.evaluation),
            *result.notes,
        ),
    )
    return Measured(record, result)


def _held_out(victim: Victim) -> tuple[HeldOutDecoy, ...]:
    names = victim.label_names
    return tuple(
        HeldOutDecoy(
            kind=one.kind,
            trigger=one.trigger,
            target=names[one.target] if isinstance(one.target, int) else one.target,
            before=Rate(hits=one.before.hits, total=one.before.total),
            after=Rate(hits=one.after.hits, total=one.after.total),
            floor=Rate(hits=one.after.without, total=one.after.total),
        )
        for one in victim.held_out
    )
