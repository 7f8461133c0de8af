"""What a run begins with: its folder, and the model, the data and the test texts it works on."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

from w2sdefense.attacks import TestConfig, make_attack
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun, ScanRun, TuneRun, Work
from w2sdefense.config import DEFAULT_TASK, DataConfig, Settings, load_settings
from w2sdefense.data import Dataset, align_labels, load_dataset
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.evaluate import TestSet, make_test_set
from w2sdefense.evaluation.record import MERGED, RECORD, load_record
from w2sdefense.io import make_folder, read_json, write_json
from w2sdefense.models.merged import write_merged
from w2sdefense.scan.origin import folder_of, template_of_another
from w2sdefense.tasks import TASKS
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim, load_victim

STARTED = "settings.json"
"""The settings of a run, written when it begins: only with the same ones may it be gone on with."""

NOT_SETTINGS = frozenset({"output", "resume", "merge"})
"""What may differ between a record and the command that finds it again."""


def open_data(config: DataConfig, task: str) -> Dataset:
    """The data of a task."""
    return load_dataset(config, text_answers=TASKS[task].text_answers)


def open_victim(
    run: Work | ScanRun | TuneRun, *, fresh_head_seed: int | None = None
) -> tuple[Victim, Dataset]:
    """The model of a run and its data; the data are opened first, because they fail faster."""
    task, generation = (run.task, run.generation) if isinstance(run, Work) else (DEFAULT_TASK, None)
    data = open_data(run.data, task)
    victim = load_victim(
        run.student,
        data.label_names or None,
        task=task,
        generation=generation,
        fresh_head_seed=fresh_head_seed,
    )
    if victim.task.text_answers:
        folder = folder_of(victim.model)
        victim.notes += template_of_another(folder, victim.tokenizer.chat_template)
    return victim, align_labels(data, victim.label_names)


def open_test_set(victim: Victim, data: Dataset, test: TestConfig) -> TestSet:
    """The test texts of a run, triggered once; without a trigger the clean ones only."""
    attack = None if test.trigger is None else make_attack(test)
    return make_test_set(data.test, victim.task, attack, test.target, seed=test.test_seed)


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
        refuse_other(folder, read_started(folder), run)
    # No process writes before all have looked.
    state.wait_for_everyone()
    if not done and state.is_main_process:
        write_json(folder / STARTED, run.model_dump(mode="json"))
    return done


def read_started(folder: Path) -> dict[str, Any]:
    """The settings that a run was begun with."""
    return read_json(folder / STARTED, fix="Remove the folder, and begin anew.")


def refuse_other(folder: Path, found: dict[str, Any], run: Settings) -> None:
    """Refuse to go on in a folder with what other settings began."""
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
