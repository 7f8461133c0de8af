"""The start of a run: its folder, model, data and test texts."""

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
"""The settings of a run, written when it begins; only a run with the same settings may resume."""

NOT_SETTINGS = frozenset({"output", "resume", "merge"})
"""Settings that may differ between a run and the command that resumes it."""


def open_data(config: DataConfig, task: str) -> Dataset:
    """Load the data for a task."""
    return load_dataset(config, text_answers=TASKS[task].text_answers)


def open_victim(
    run: Work | ScanRun | TuneRun, *, fresh_head_seed: int | None = None
) -> tuple[Victim, Dataset]:
    """Open the data and the model of a run; data first, because their errors show faster."""
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
    """The test texts of a run, clean and triggered; without a trigger, only the clean ones."""
    attack = None if test.trigger is None else make_attack(test)
    return make_test_set(data.test, victim.task, attack, test.target, seed=test.test_seed)


def begin(folder: Path, run: PoisonRun | EvaluateRun | DefendRun) -> bool:
    """Whether the folder already holds the results of this run; if not, write its settings there.

    Raises:
        ConfigError: The folder holds results of other settings; with `resume`, also if an
            unfinished run with other settings began there.
    """
    state = this_process()
    make_folder(folder)
    done = (folder / RECORD).is_file()
    if done:
        refuse_other(folder, load_record(folder).config, run)
    elif run.resume and (folder / STARTED).is_file():
        refuse_other(folder, read_started(folder), run)
    # No process may write before all have read.
    state.wait_for_everyone()
    if not done and state.is_main_process:
        write_json(folder / STARTED, run.model_dump(mode="json"))
    return done


def read_started(folder: Path) -> dict[str, Any]:
    """Read the settings that a run began with."""
    return read_json(folder / STARTED, fix="Remove the folder and rerun the command.")


def refuse_other(folder: Path, found: dict[str, Any], run: Settings) -> None:
    """Raise a `ConfigError` if the folder holds a run with other settings."""
    wanted = run.model_dump(mode="json")
    # A setting that did not exist when the run began gets its present default.
    with contextlib.suppress(ConfigError):
        found = load_settings(type(run), found, str(folder)).model_dump(mode="json")
    differs = sorted(key for key in wanted.keys() - NOT_SETTINGS if found.get(key) != wanted[key])
    if differs:
        raise ConfigError(
            f"{folder} holds a run with other settings ({', '.join(differs)}).",
            "Choose another --output, or remove the folder.",
        )


def merge_finished(run: DefendRun) -> None:
    """Write `merged/` for a finished run, if it does not exist yet."""
    if not this_process().is_main_process or (run.output / MERGED).is_dir():
        return
    student = run.student.model_copy(update={"model": str(run.output), "base": run.student.model})
    names = load_record(run.output).label_names or None
    victim = load_victim(student, names, task=run.task, generation=run.generation)
    save_merged(victim, run.output)


def save_merged(model: Victim, folder: Path) -> None:
    """Merge the adapter of a model, and write `merged/` in the run's folder atomically."""
    temporary = folder / f".{MERGED}"
    for path in (temporary, folder / MERGED):
        shutil.rmtree(path, ignore_errors=True)
    try:
        model.model = write_merged(model.model, model.tokenizer, temporary)
        temporary.replace(folder / MERGED)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
