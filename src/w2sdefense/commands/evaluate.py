"""`w2s evaluate`: measure CA and, with a trigger, ASR and the floor without it."""

from __future__ import annotations

from pathlib import Path

from w2sdefense.cli.display import Display
from w2sdefense.commands.folders import begin
from w2sdefense.commands.inputs import open_test_set, open_victim
from w2sdefense.commands.measure import measure
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import EvaluateRun
from w2sdefense.data import Dataset
from w2sdefense.evaluation.evaluate import TestSet
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim


@stage
def run_evaluate(run: EvaluateRun, display: Display) -> Path:
    """Measure a model and write its record.

    Returns:
        The run's folder.
    """
    if not begin(run.output, run):
        victim, data = open_victim(run.student, run.data, run.task, run.generation)
        measure_as_is(run, victim, data, open_test_set(victim, data, run.test, display), display)
    return run.output


def measure_as_is(
    run: EvaluateRun, victim: Victim, data: Dataset, test: TestSet, display: Display
) -> None:
    """Measure a model that is open already, and write its record."""
    measured = measure(victim, test, run, run.output, "evaluate", data, Clock(), display)
    if this_process().is_main_process:
        measured.save(run.output)
    this_process().wait_for_everyone()
