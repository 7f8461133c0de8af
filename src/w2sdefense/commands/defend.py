"""`w2s defend`: measure a model, clean it with the clean data at hand, measure it again."""

from __future__ import annotations

from pathlib import Path

from w2sdefense.attacks.poisoning import plain_training_data
from w2sdefense.cli.display import Display
from w2sdefense.commands.evaluate import measure_as_is
from w2sdefense.commands.folders import (
    begin,
    merge_finished,
    refuse_finished,
    refuse_own_model,
    save_merged,
)
from w2sdefense.commands.inputs import open_test_set, open_victim
from w2sdefense.commands.measure import measure
from w2sdefense.commands.preflight import check_defended_model
from w2sdefense.commands.runs import DefendRun, EvaluateRun
from w2sdefense.data import Dataset, fingerprint
from w2sdefense.defenses import DEFENSES, Defense, DefenseKit, Leaves
from w2sdefense.distill.sharding import refuse_sharding
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import RECORD
from w2sdefense.evaluation.testset import TestSet
from w2sdefense.io import make_folder
from w2sdefense.models.checkpoint import resolve_whole
from w2sdefense.models.load import require_causal_lm
from w2sdefense.scan.origin import origin_hint
from w2sdefense.tasks import TASKS
from w2sdefense.training.checkpoints import remove_checkpoints
from w2sdefense.training.trainer import check_tracker, this_process
from w2sdefense.victim import Victim


def run_defend(run: DefendRun, display: Display) -> list[Path]:
    """Measure a model, defend it, measure it again.

    Returns:
        The folders of the two records, before and after.
    """
    refuse_finished(run.output, resume=run.resume)
    defense = _checked_defense(run)
    make_folder(run.output)
    if run.defense == "w2s":
        hint = origin_hint(run.student, run.scan, "--scan-fine-tuned-from")
        if hint and run.scan.rate:
            display.say(hint)
        _find_teacher(run)
    before = EvaluateRun(
        task=run.task,
        student=run.student,
        data=run.data,
        generation=run.generation,
        test=run.test,
        output=run.output / "before",
        resume=run.resume,
    )
    if not run.resume and this_process().is_main_process:
        # What a run that was cut off had measured; this one begins anew.
        (before.output / RECORD).unlink(missing_ok=True)
    this_process().wait_for_everyone()
    measured, finished = begin(before.output, before), _finished(run)
    if not (measured and finished):
        victim, data = open_victim(run.student, run.data, run.task, run.generation)
        test = open_test_set(victim, data, run.test, display)
        if not measured:
            measure_as_is(before, victim, data, test, display)
        if not finished:
            _defend(run, defense, victim, data, test, display)
    return [before.output, run.output]


def run_defense(run: DefendRun, display: Display) -> Path:
    """Defend a model and measure the result; write what the defense made, and the record.

    Returns:
        The run's folder.
    """
    defense = _checked_defense(run)
    if not _finished(run):
        victim, data = open_victim(run.student, run.data, run.task, run.generation)
        test = open_test_set(victim, data, run.test, display)
        _defend(run, defense, victim, data, test, display)
    return run.output


def _checked_defense(run: DefendRun) -> Defense:
    """The defense of a run.

    Raises:
        W2SError: What it needs is not there, or what is asked for makes no sense with it.
    """
    kind, task = DEFENSES[run.defense], TASKS[run.task]
    if run.defense not in ("w2s", "lora"):
        refuse_sharding(f"--defense {run.defense}")
    if run.student.base is not None:
        refuse_sharding("--base")
    refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    if run.merge and kind.leaves is not Leaves.ADAPTER:
        raise ConfigError(
            f"--merge folds an adapter in, but {run.defense} leaves {kind.leaves}.",
            "Leave --merge out.",
        )
    if run.task not in kind.tasks:
        raise ConfigError(
            f"The defense {run.defense} does not work for {run.task}.",
            "Use another --defense: w2s ls shows what each works for.",
        )
    if task.text_answers and run.scan.model_fields_set and run.scan.rate:
        raise ConfigError(
            "The search for triggers needs labels; a text has none.", "Leave its settings out."
        )
    check_defended_model(run)
    if task.text_answers and run.defense == "w2s":
        require_causal_lm(run.teacher.model)
        if run.distill.alignment == "release":
            raise ConfigError(
                "The authors' published script aligns classifiers only.", "Leave --alignment out."
            )
    return kind.from_run(run)


def _merges(run: DefendRun) -> bool:
    # What was an adapter already is folded in, and the new adapter fits that fold only.
    adapted = DEFENSES[run.defense].leaves is Leaves.ADAPTER
    return run.merge or (adapted and run.student.base is not None)


def _finished(run: DefendRun) -> bool:
    """Whether the run's folder holds its results; if it may, they are merged."""
    done = begin(run.output, run)
    if done and _merges(run):
        merge_finished(run)
    return done


def _defend(
    run: DefendRun,
    defense: Defense,
    victim: Victim,
    data: Dataset,
    test: TestSet,
    display: Display,
) -> None:
    clock = Clock()
    # The prompt that a model is used with comes with the model; the trigger does not.
    clean = plain_training_data(data, test.attack)
    kit = DefenseKit(
        data=clean,
        folder=run.output,
        teacher=run.teacher,
        teacher_folder=_teacher_folder(run),
        resume=run.resume,
        progress=display.steps,
    )
    defended = defense.apply(victim, kit)
    prints = {"train": fingerprint(clean.train)}
    measured = measure(defended, test, run, run.output, "defend", data, clock, display, prints)
    if this_process().is_main_process:
        if isinstance(defended, Victim):
            defended.save(run.output)
            if _merges(run):
                save_merged(defended, run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    this_process().wait_for_everyone()


def _find_teacher(run: DefendRun) -> None:
    """Fail over a teacher that cannot be had before the first measurement rather than after it."""
    folder = _teacher_folder(run)
    make_folder(folder)
    if not (folder / "teacher.json").is_file():
        refuse_sharding("The training of a teacher")
        resolve_whole(run.teacher.model, "Name a whole model as the teacher.")


def _teacher_folder(run: DefendRun) -> Path:
    return run.teacher_folder or run.output / "teacher"
