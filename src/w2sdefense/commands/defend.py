"""`w2s defend`: measure a model, clean it with the given clean data, measure it again."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel

from w2sdefense.attacks.poisoning import plain_training_data
from w2sdefense.cli.display import Display
from w2sdefense.commands.evaluate import measure
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import DefendRun, EvaluateRun, teacher_folder_of
from w2sdefense.commands.start import begin, merge_finished, open_test_set, open_victim
from w2sdefense.data import Dataset
from w2sdefense.defenses import DEFENSES, DefenseKit, Leaves
from w2sdefense.defenses.base import victim_of
from w2sdefense.distill.held_out import HeldOutDecoys
from w2sdefense.evaluation.evaluate import TestSet
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import RECORD
from w2sdefense.io import only_process_in
from w2sdefense.models.adapters import require_mergeable
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim


@stage
def run_defend(run: DefendRun, display: Display) -> list[Path]:
    """Measure a model, defend it, measure it again; returns the folders of the two records."""
    names = ("task", "student", "data", "generation", "test", "resume")
    shared = {name: getattr(run, name) for name in names}
    before = EvaluateRun(**shared, output=run.output / "before")
    with only_process_in(before.output):
        if not run.resume and this_process().is_main_process:
            # Remove the measurement of an interrupted run, because this one starts over.
            (before.output / RECORD).unlink(missing_ok=True)
        this_process().wait_for_everyone()
        measured, finished = begin(before.output, before), _finished(run)
        if not (measured and finished):
            victim, data = open_victim(run)
            changes = DEFENSES[run.defense].leaves is not Leaves.NOTHING
            if changes and isinstance(victim.model, PeftModel):
                require_mergeable(victim.model)
            test = open_test_set(victim, data, run.test)
            if not measured:
                measure(victim, test, before, data, Clock(), display)
            if not finished:
                _defend(run, victim, data, test, display)
    return [before.output, run.output]


@stage
def run_defense(run: DefendRun, display: Display) -> Path:
    """Defend a model and measure the result; writes the cleaned model and the record."""
    if not _finished(run):
        victim, data = open_victim(run)
        test = open_test_set(victim, data, run.test)
        _defend(run, victim, data, test, display)
    return run.output


def _merges(run: DefendRun) -> bool:
    # If the suspect is an adapter, it is merged first, and the new adapter fits only the result.
    adapted = DEFENSES[run.defense].leaves is Leaves.ADAPTER
    return run.merge or (adapted and run.student.base is not None)


def _finished(run: DefendRun) -> bool:
    """Whether the run's folder holds its results; merges a finished adapter if asked for."""
    done = begin(run.output, run)
    if done and _merges(run):
        merge_finished(run)
    return done


def _defend(run: DefendRun, victim: Victim, data: Dataset, test: TestSet, display: Display) -> None:
    clock = Clock()
    # The defender knows the prompt that the model is normally used with, but not the trigger.
    clean = plain_training_data(data, test.attack)
    kit = DefenseKit(
        data=clean,
        folder=run.output,
        teacher=run.teacher,
        teacher_folder=teacher_folder_of(run),
        resume=run.resume,
        progress=display.steps,
    )
    decoys = _held_out(run, victim, clean, display)
    defended = DEFENSES[run.defense].of(run).apply(victim, kit)
    held_out = decoys.measure(victim_of(defended)) if decoys else ()
    if decoys and decoys.planted.failed:
        defended.notes += (f"held-out decoys that could not be planted: {decoys.planted.lost}",)
    measure(defended, test, run, data, clock, display, clean.train, held_out, merge=_merges(run))


def _held_out(
    run: DefendRun, victim: Victim, clean: Dataset, display: Display
) -> HeldOutDecoys | None:
    """Plant held-out decoys; only for defenses that leave the weights below an adapter as is."""
    if not run.held_out or DEFENSES[run.defense].leaves is not Leaves.ADAPTER:
        return None
    folder, told = run.output / "held_out", display.steps("held-out decoys")
    return HeldOutDecoys.plant(victim, clean, run.held_out, folder, told)
