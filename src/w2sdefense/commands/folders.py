"""The folder of a run: may it be begun or gone on with, and what its record says beside numbers."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2sdefense.attacks import Attack, count_lost
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun
from w2sdefense.config import Settings, load_settings
from w2sdefense.data.splits import known_texts, near_note
from w2sdefense.data.types import Example
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.record import RECORD, Evaluation, LossPoint, load_record
from w2sdefense.io import make_folder, write_json
from w2sdefense.models.merged import write_merged
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim, load_victim

MERGED = "merged"

STARTED = "settings.json"
"""The settings of a run, written when it begins: only with the same ones may it be gone on with."""

NOT_SETTINGS = frozenset({"output", "resume", "merge"})
"""What may differ between a record and the command that finds it again."""


def begin(folder: Path, run: PoisonRun | EvaluateRun | DefendRun) -> bool:
    """Whether the folder holds the results of just this run; if not, note what is begun in it.

    Raises:
        ConfigError: A run with other settings is in the way, or a finished one without `resume`.
    """
    state = this_process()
    make_folder(folder)
    done = (folder / RECORD).is_file()
    if done:
        refuse_other(folder, load_record(folder).config, run)
    elif run.resume and (folder / STARTED).is_file():
        refuse_other(folder, json.loads((folder / STARTED).read_text(encoding="utf-8")), run)
    # No process writes before all have looked.
    state.wait_for_everyone()
    if not done and state.is_main_process:
        write_json(folder / STARTED, run.model_dump(mode="json"))
    return done


def refuse_other(folder: Path, found: dict[str, Any], run: Settings) -> None:
    """Refuse to go on with what other settings began.

    Args:
        folder: The run's folder.
        found: The settings that are in it.
        run: Those that are wanted.

    Raises:
        ConfigError: They differ in more than what may differ.
    """
    wanted = run.model_dump(mode="json")
    # A setting that did not exist yet when the run was begun had what is its default now.
    with contextlib.suppress(ConfigError):
        found = load_settings(type(run), found, str(folder)).model_dump(mode="json")
    differs = sorted(key for key in wanted.keys() - NOT_SETTINGS if found.get(key) != wanted[key])
    if differs:
        raise ConfigError(
            f"{folder} holds a run with other settings ({', '.join(differs)}).",
            "Choose another --output, or remove the folder.",
        )


def merge_finished(run: DefendRun) -> None:
    """Fold the adapter of a finished run in, if that was not asked for when it ran."""
    if not this_process().is_main_process or (run.output / MERGED).is_dir():
        return
    student = run.student.model_copy(update={"model": str(run.output), "base": run.student.model})
    names = load_record(run.output).label_names or None
    victim = load_victim(student, names, task=run.task, generation=run.generation)
    save_merged(victim, run.output)


def save_merged(model: Victim, folder: Path) -> None:
    """Fold the adapter of a model in, and write `merged/` below its run's folder whole."""
    temporary = folder / f".{MERGED}"
    for path in (temporary, folder / MERGED):
        shutil.rmtree(path, ignore_errors=True)
    try:
        model.model = write_merged(model.model, model.tokenizer, temporary)
        temporary.replace(folder / MERGED)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def history_of(log: Sequence[Mapping[str, float]]) -> tuple[LossPoint, ...]:
    """The points of a Trainer's log that hold losses."""
    names = {"loss", "ce", "kd", "fa", "eval_accuracy", "eval_loss"}
    points = (
        LossPoint(
            step=int(point["step"]),
            epoch=float(point["epoch"]),
            losses={name: value for name, value in point.items() if name in names},
        )
        for point in log
    )
    return tuple(point for point in points if point.losses)


def tested_in_training(tested: Sequence[Example], trained: Sequence[Example]) -> tuple[str, ...]:
    """Test texts that the attacker trained on: by them the victim's clean accuracy is too high.

    Splits of one dataset share none; the attacker's dataset may be where the defender's is from.
    """
    known = known_texts(tested, trained)
    counted = f"{known} of {len(tested)} test texts are among the attacker's training rows"
    near = near_note(tested, trained, "test texts nearly repeat one of the attacker's rows")
    return (counted, *near) if known else near


def lost_in_training(texts: Iterable[tuple[Attack, str, int | None]]) -> tuple[str, ...]:
    """A note on poisoned rows whose trigger lies behind the end of what the model reads, if any.

    Args:
        texts: The rows with a trigger, the attack that put it there, and the characters that they
            are cut at.
    """
    rows = list(texts)
    lost = count_lost(rows)
    if not lost:
        return ()
    return (
        f"{lost} of {len(rows)} poisoned training rows lose their trigger to the model's limit and "
        "teach no backdoor (raise --max-length; a trigger that is inserted can stand at the start: "
        "--place start)",
    )


def notes_of(dropped: Mapping[str, int], found: Evaluation) -> tuple[str, ...]:
    """What a reader of a record must know."""
    notes = [f"{count} rows left out: {reason}" for reason, count in dropped.items() if count]
    if found.cut_texts:
        notes.append(
            f"{found.cut_texts} test texts were longer than the model's limit and were cut"
        )
    if found.refused_texts or found.refused_triggers:
        notes.append(
            f"{found.refused_texts} clean and {found.refused_triggers} triggered texts were refused"
        )
    if found.cut_triggers:
        notes.append(f"{found.cut_triggers} triggered texts lost their trigger to the cut")
    if found.unfinished:
        notes.append(f"{found.unfinished} answers were stopped at the limit of tokens")
    return tuple(notes)
