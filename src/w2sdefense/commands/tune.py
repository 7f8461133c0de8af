"""`w2s tune`: chooses the settings of W2SDefense on clean data only.

Fits a teacher and searches the poisoned model once. Every trial then trains a student as
`w2s defend` would, and measures it on clean validation text. The choice is written to `tuned.json`,
and to `defend.yaml` for `w2s defend`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from w2sdefense.cli.display import Display, print_json
from w2sdefense.commands.preflight import alone, check_folders, preflight
from w2sdefense.commands.runs import DefendRun, TuneRun, teacher_folder_of
from w2sdefense.commands.start import STARTED, open_victim, read_started, refuse_other
from w2sdefense.config import W2SSettings
from w2sdefense.data.types import Dataset, fingerprint, labels_of, texts_of
from w2sdefense.defenses import DefenseKit
from w2sdefense.defenses.w2s import W2SDefense
from w2sdefense.distill.fit_teacher import LabelTeacherJob, fit_or_load_teacher
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.metrics import accuracy
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.io import write_json, write_text
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.report.gate import numbers_of
from w2sdefense.scan.origin import check_origin
from w2sdefense.scan.victim import scan_victim, teacher_score
from w2sdefense.training.fit import remove_checkpoints
from w2sdefense.training.trainer import this_process
from w2sdefense.tuning import (
    Choice,
    Measured,
    Probes,
    Trial,
    Values,
    exposure,
    make_probes,
    require_optuna,
    search,
)
from w2sdefense.victim import Victim, load_victim

TUNED, DEFEND = "tuned.json", "defend.yaml"


@dataclass(frozen=True)
class Tuned:
    """All trials, the chosen one, and the command that defends a model with its settings."""

    trials: list[Trial]
    choice: Choice
    command: str


def run_tune(run: TuneRun, display: Display) -> Tuned:
    """Start or continue a search, and write the choice.

    Raises:
        ConfigError: There are several processes, or the folder holds a search with other settings.
    """
    require_optuna()
    if this_process().num_processes > 1:
        raise ConfigError("w2s tune needs a single process.", "Start it without a launcher.")
    check_folders(run)
    preflight(defend_run(run, _start(run)))
    check_origin(run.student, run.scan)
    with alone(run):
        return _tune(run, display)


def _tune(run: TuneRun, display: Display) -> Tuned:
    _begin(run)
    clock = Clock()
    victim, data = open_victim(run)
    bench = _Bench.prepare(run, victim, data, display)
    del victim
    trials = search(bench.measure, _start(run), run.tune, run.output, bench.tell)
    choice = Choice.of(trials, run.tune.tolerance)
    tuned = Tuned(trials, choice, _save_defense(run, choice.trial.values))
    write_json(run.output / TUNED, _as_values(run, tuned, bench, clock))
    return tuned


def _begin(run: TuneRun) -> None:
    """Write the settings to the folder, unless it holds a search with other settings."""
    started = run.output / STARTED
    if started.is_file():
        found = read_started(run.output)
        if isinstance(found.get("tune"), dict):
            # The number of trials may change, so that a search can be extended.
            found["tune"]["trials"] = run.tune.trials
        refuse_other(run.output, found, run)
    write_json(started, run.model_dump(mode="json"))


def _start(run: TuneRun) -> Values:
    """The settings that the search begins with."""
    weights = run.distill.model_dump(include={"alpha", "beta", "gamma", "temperature"})
    return {**weights, "lora_r": run.adapter.lora_r}


def defend_run(run: TuneRun, values: Values) -> DefendRun:
    """The run of `w2s defend` with the settings of a trial."""
    weights = {name: value for name, value in values.items() if name != "lora_r"}
    shared = {name: getattr(run, name) for name in W2SSettings.model_fields}
    shared["distill"] = run.distill.model_copy(update=weights)
    shared["adapter"] = run.adapter.model_copy(update={"lora_r": int(values["lora_r"])})
    shared["teacher_folder"] = teacher_folder_of(run)
    return DefendRun(**shared, output=run.output / "defended")


@dataclass(frozen=True)
class _Bench:
    """What all trials share; `victim` is the fingerprint of the model to defend."""

    run: TuneRun
    data: Dataset
    probes: Probes
    victim: str
    display: Display

    @classmethod
    def prepare(cls, run: TuneRun, victim: Victim, data: Dataset, display: Display) -> _Bench:
        """Fit the teacher, search the victim, and make the probes for students."""
        folder = teacher_folder_of(run)
        teacher = fit_or_load_teacher(
            LabelTeacherJob(
                run.teacher, data, victim.width, relu=run.distill.alignment == "release"
            ),
            folder,
            run_folder=run.output,
            resume=True,
            progress=display.steps("teacher"),
        )
        told, seed = display.steps("scan"), run.training.seed
        found = scan_victim(victim, teacher, data, run.scan, seed, folder, told).candidates
        probes = make_probes(found, teacher_score(teacher), data.validation, run.signal, seed)
        return cls(run, data, probes, weights_fingerprint(victim.model), display)

    def measure(self, number: int, values: Values, again: bool) -> Measured:
        """Train a student as `w2s defend` would, and measure it on clean validation text."""
        run = defend_run(self.run, values)
        folder = self.run.output / "trial"
        kit = DefenseKit(
            data=self.data,
            folder=folder,
            teacher=run.teacher,
            teacher_folder=teacher_folder_of(self.run),
            resume=again,
            progress=self.display.steps,
        )
        victim = load_victim(run.student, self.data.label_names)
        student = W2SDefense.of(run).apply(victim, kit)
        remove_checkpoints(folder)
        texts = texts_of(self.data.validation)
        total = len(texts) + len(self.probes.texts) + len(self.probes.tries)
        advance = self.display.texts(f"trial {number} validation", total)
        answers = [answer.answer for answer in student.predict(texts, advance)]
        return Measured(
            accuracy(answers, labels_of(self.data.validation)),
            exposure(student, self.probes, advance),
        )

    def tell(self, trial: Trial) -> None:
        """Show the result of a trial."""
        self.display.tidy()
        settings = ", ".join(f"{name} {value:.4g}" for name, value in trial.values.items())
        accuracy, found = _shares(trial)
        self.display.say(f"Trial {trial.number} ({settings}): CA {accuracy}, exposure {found}")


def _save_defense(run: TuneRun, values: Values) -> str:
    """Write the settings for `w2s defend`; returns the command that uses them."""
    settings = defend_run(run, values).model_dump(mode="json", exclude_defaults=True)
    write_text(run.output / DEFEND, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    return shlex.join(["w2s", "defend", "--config", str(run.output / DEFEND)])


def _as_values(run: TuneRun, tuned: Tuned, bench: _Bench, clock: Clock) -> dict[str, Any]:
    """The content of `tuned.json`."""
    chosen = tuned.choice.trial
    candidates = dict.fromkeys(one.candidate for one in bench.probes.tries)
    names = bench.data.label_names
    return {
        "chosen": chosen.number,
        "settings": chosen.values,
        "why": tuned.choice.why,
        "command": tuned.command,
        "trials": [trial.as_values() for trial in tuned.trials],
        "signal": {
            **run.signal.model_dump(),
            "candidates": [{"text": c.text, "label": names[c.outcome]} for c in candidates],
        },
        "fingerprints": {
            "model": bench.victim,
            "train": fingerprint(bench.data.train),
            "validation": fingerprint(bench.data.validation),
        },
        "provenance": clock.provenance().model_dump(mode="json"),
    }


def show_tuned(tuned: Tuned, run: TuneRun) -> None:
    """Print the trials, the choice, and the command that uses it."""
    names = list(tuned.choice.trial.values)
    table = Table("Trial", *names, "CA (validation)", "Exposure", "Minutes")
    for trial in tuned.trials:
        chosen = trial.number == tuned.choice.trial.number
        table.add_row(
            str(trial.number),
            *(f"{trial.values[name]:.4g}" for name in names),
            *_shares(trial),
            f"{trial.seconds / 60:.1f}",
            style="bold green" if chosen else None,
        )
    console = Console(markup=False, soft_wrap=True, stderr=run.json_output)
    console.print(table)
    console.print(tuned.choice.why, highlight=False)
    console.print(f"Defend with it: {tuned.command}", highlight=False)
    if run.json_output:
        found = json.loads((run.output / TUNED).read_text(encoding="utf-8"))
        print_json(numbers_of("tune", tuned=found))


def _shares(trial: Trial) -> tuple[str, str]:
    accuracy, found = trial.measured.accuracy, trial.measured.exposure
    return (
        f"{accuracy.value:.1%} {accuracy.hits}/{accuracy.total}",
        f"{found.value:.1%} {found.hits}/{found.total}",
    )
