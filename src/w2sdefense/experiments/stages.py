"""The stages of a run put together: poison, teach, defend, evaluate.

Each function does one command from its settings to its record. A stage whose record was written
with the same settings is not repeated under `resume`; a stage that was cut off goes on from its
last checkpoint. Under torchrun every process runs the same stage, and the first one writes. Nothing
here decides how a stage works.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from w2sdefense.attacks import Attack, attack_from_trigger, make_attack
from w2sdefense.attacks.poisoning import (
    plain_training_data,
    poison_training_set,
    trigger_test_set,
)
from w2sdefense.config import DataConfig, StudentConfig
from w2sdefense.data import (
    TextDataset,
    align_labels,
    fingerprint,
    load_dataset,
    proxy_of,
)
from w2sdefense.defenses import DefenseKit, LoRA, W2SDefense
from w2sdefense.distill.targets import weights_fingerprint
from w2sdefense.distill.teacher import Teacher, fit_or_load_teacher
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.evaluate import EvaluationResult, evaluate, label_index
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import (
    RECORD,
    LossPoint,
    Record,
    Stage,
    load_record,
    save_record,
)
from w2sdefense.experiments.display import Display
from w2sdefense.experiments.processes import DividedPredictor
from w2sdefense.io import write_json
from w2sdefense.models.load import feature_width
from w2sdefense.run_config import DefendRun, EvaluateRun, PoisonRun, TeachRun, TestConfig
from w2sdefense.training import remove_checkpoints
from w2sdefense.victim import Victim, load_victim, new_victim, poison_victim

STARTED = "settings.json"
"""The settings of a run, written when it begins: only with the same ones may it be gone on with."""

MERGED = "merged"

PAPER = "paper"
"""The `--proxy` that stands for the dataset the paper poisons on."""

NOT_SETTINGS = frozenset({"output", "resume", "merge"})
"""What may differ between a record and the command that finds it again."""


def run_poison(run: PoisonRun, display: Display) -> Path:
    """Poison a model, measure it, and write it as a `transformers` folder with its record.

    Returns:
        The run's folder.
    """
    _refuse_own_model(run.student.model, run.output)
    if _begin(run.output, run):
        return run.output
    clock = Clock()
    attack = make_attack(run.attack)
    proxy = proxy_of(run.data.dataset) if run.proxy == PAPER else run.proxy
    data = load_dataset(run.data)
    victim = new_victim(run.student, data.label_names, run.training.seed)
    # A classifier brings labels in an order of its own.
    data = align_labels(data, victim.label_names)
    source = data if proxy is None else _proxy_data(proxy, run.data, data)
    target = label_index(run.attack.target, data.label_names)
    poisoned = poison_training_set(source.train, attack, run.attack, target, display.texts)
    display.say(
        f"Poisoning {run.student.model}: {len(poisoned.poisoned_ids)} of "
        f"{len(poisoned.examples)} rows of {source.name} carry {attack.trigger!r} -> "
        f"{run.attack.target}"
    )
    poison_victim(
        victim,
        poisoned.examples,
        run.training,
        run.output,
        resume=run.resume,
        progress=display.steps("poison"),
    )
    measured = _Measured(run.output.name, "poison", run.model_dump(mode="json"), data, clock)
    measured.prints = {"train": fingerprint(poisoned.examples)}
    measured.measure(victim, attack, run.attack.target, run.attack.attack_seed, display)
    if PartialState().is_main_process:
        victim.save(run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    return run.output


def run_teach(run: TeachRun, display: Display) -> Teacher:
    """Fine-tune a teacher for a student, or open the one that was made with the same settings."""
    return fit_or_load_teacher(
        run.teacher,
        load_dataset(run.data),
        feature_width(run.student.model, run.student.base),
        run.output,
        relu=run.alignment == "release",
        resume=run.resume,
        progress=display.steps("teacher"),
    )


def run_evaluate(run: EvaluateRun, display: Display) -> Path:
    """Measure a model and write its record.

    Returns:
        The run's folder.
    """
    if _begin(run.output, run):
        return run.output
    clock = Clock()
    attack = _test_attack(run.test)
    victim, data = _open(run.student, run.data)
    measured = _Measured(run.output.name, "evaluate", run.model_dump(mode="json"), data, clock)
    measured.measure(victim, attack, run.test.target, run.test.test_seed, display)
    if PartialState().is_main_process:
        measured.save(run.output)
    return run.output


def run_defend(run: DefendRun, display: Display) -> list[Path]:
    """Measure a model, defend it, measure it again.

    Returns:
        The folders of the two records, before and after.
    """
    _refuse_finished(run.output, resume=run.resume)
    before = EvaluateRun(
        student=run.student,
        data=run.data,
        test=run.test,
        output=run.output / "before",
        resume=run.resume,
    )
    _refuse_own_model(run.student.model, run.output)
    _refuse_finished(run.output, resume=run.resume)
    if not run.resume and PartialState().is_main_process:
        # What a run that was cut off had measured; this one begins anew.
        (before.output / RECORD).unlink(missing_ok=True)
    PartialState().wait_for_everyone()
    return [run_evaluate(before, display), run_defense(run, display)]


def run_defense(run: DefendRun, display: Display) -> Path:
    """Defend a model and measure the result; write the adapter and the record.

    Returns:
        The run's folder.
    """
    _refuse_own_model(run.student.model, run.output)
    # What was an adapter already is folded in, and the new adapter fits that fold only.
    merge = run.merge or run.student.base is not None
    if _begin(run.output, run):
        if merge:
            _merge_finished(run)
        return run.output
    clock = Clock()
    attack = _test_attack(run.test)
    victim, data = _open(run.student, run.data)
    # The prompt that a model is used with comes with the model; the trigger does not.
    data = plain_training_data(data, attack)
    kit = DefenseKit(
        data=data,
        folder=run.output,
        teacher=run.teacher,
        teacher_folder=run.teacher_folder or run.output / "teacher",
        resume=run.resume,
        progress=display.steps,
    )
    defended = _defense(run).apply(victim, kit)
    measured = _Measured(run.output.name, "defend", run.model_dump(mode="json"), data, clock)
    measured.prints = {"train": fingerprint(data.train)}
    measured.measure(defended, attack, run.test.target, run.test.test_seed, display)
    if PartialState().is_main_process:
        defended.save(run.output)
        if merge:
            _save_merged(defended, run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    return run.output


def _defense(run: DefendRun) -> W2SDefense | LoRA:
    if run.defense == "lora":
        return LoRA(adapter=run.adapter, training=run.training)
    return W2SDefense(
        distill=run.distill, soft=run.soft, adapter=run.adapter, training=run.training
    )


def _merge_finished(run: DefendRun) -> None:
    """Fold the adapter of a finished run in, if that was not asked for when it ran."""
    if not PartialState().is_main_process or (run.output / MERGED).is_dir():
        return
    student = run.student.model_copy(update={"model": str(run.output), "base": run.student.model})
    _save_merged(load_victim(student, load_record(run.output).label_names), run.output)


def _save_merged(defended: Victim, folder: Path) -> None:
    temporary = folder / f".{MERGED}"
    for path in (temporary, folder / MERGED):
        shutil.rmtree(path, ignore_errors=True)
    defended.save(temporary, merge=True)
    temporary.replace(folder / MERGED)


@dataclass
class _Measured:
    """Measures a model and writes the record of the run that made it."""

    name: str
    stage: Stage
    config: dict[str, Any]
    data: TextDataset
    clock: Clock
    prints: dict[str, str] = field(default_factory=dict)

    def measure(
        self,
        victim: Victim,
        attack: Attack | None,
        target: str | None,
        seed: int,
        display: Display,
    ) -> None:
        """Answer the test texts, in all processes; the outcome is kept for `save`."""
        test = self.data.test
        total = len(test)
        if attack is not None:
            index = label_index(target, victim.label_names)
            # A slow attack does its work here, where it is seen; `evaluate` finds it done.
            total += len(trigger_test_set(test, attack, index, seed, display.texts))
        self.result = evaluate(
            DividedPredictor(victim),
            test,
            victim.label_names,
            attack,
            target,
            seed=seed,
            progress=display.texts(f"evaluate {self.name}", total),
        )
        self.record = Record(
            name=self.name,
            stage=self.stage,
            config=self.config,
            label_names=victim.label_names,
            evaluation=self.result.evaluation,
            history=_history(victim),
            fingerprints={
                "test": fingerprint(test),
                "model": weights_fingerprint(victim.model),
                **self.prints,
            },
            provenance=self.clock.provenance(),
            notes=_notes(self.data, self.result),
        )

    def save(self, folder: Path) -> None:
        """Write the record, when everything that it speaks of is written."""
        save_record(folder, self.record, self.result.samples, self.result.features)


def _open(student: StudentConfig, config: DataConfig) -> tuple[Victim, TextDataset]:
    """The model, and the data in its order of labels; the data first, because it fails faster."""
    data = load_dataset(config)
    victim = load_victim(student, data.label_names)
    return victim, align_labels(data, victim.label_names)


def _proxy_data(name: str, config: DataConfig, data: TextDataset) -> TextDataset:
    proxy = load_dataset(config.model_copy(update={"dataset": name}))
    return align_labels(proxy, data.label_names)


def _test_attack(test: TestConfig) -> Attack | None:
    if test.trigger is None:
        return None
    return attack_from_trigger(test.trigger, test.place, test.more_triggers, test.syn, test.pro)


def _begin(folder: Path, run: PoisonRun | EvaluateRun | DefendRun) -> bool:
    """Whether the folder holds the results of just this run; if not, note what is begun in it.

    Raises:
        ConfigError: A run with other settings is in the way, or a finished one without `resume`.
    """
    state = PartialState()
    wanted = run.model_dump(mode="json")
    _refuse_finished(folder, resume=run.resume)
    done = (folder / RECORD).is_file()
    if done:
        _refuse_other(folder, load_record(folder).config, wanted)
    elif run.resume and (folder / STARTED).is_file():
        started = json.loads((folder / STARTED).read_text(encoding="utf-8"))
        _refuse_other(folder, started, wanted)
    # No process writes before all have looked.
    state.wait_for_everyone()
    if not done and state.is_main_process:
        write_json(folder / STARTED, wanted)
    return done


def _refuse_other(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differs = sorted(key for key in wanted.keys() - NOT_SETTINGS if found.get(key) != wanted[key])
    if differs:
        raise ConfigError(
            f"{folder} holds a run with other settings ({', '.join(differs)}).",
            "Choose another --output, or remove the folder.",
        )


def _refuse_finished(folder: Path, *, resume: bool) -> None:
    if (folder / RECORD).is_file() and not resume:
        raise ConfigError(
            f"{folder} holds a finished run already.",
            "Add --resume to use it, choose another --output, or remove the folder.",
        )


def _refuse_own_model(model: str, output: Path) -> None:
    if Path(model).expanduser().resolve() == output.expanduser().resolve():
        raise ConfigError(
            f"The output {output} is the model itself, which would be overwritten.",
            "Choose another --output.",
        )


def _history(victim: Victim) -> tuple[LossPoint, ...]:
    names = {"loss", "ce", "kd", "fa", "eval_accuracy", "eval_loss"}
    points = (
        LossPoint(
            step=int(point["step"]),
            epoch=float(point["epoch"]),
            losses={name: value for name, value in point.items() if name in names},
        )
        for point in victim.history
    )
    return tuple(point for point in points if point.losses)


def _notes(data: TextDataset, result: EvaluationResult) -> tuple[str, ...]:
    found = result.evaluation
    notes = [f"{count} rows left out: {reason}" for reason, count in data.dropped.items() if count]
    if found.cut_texts:
        notes.append(
            f"{found.cut_texts} test texts were longer than the model's limit and were cut"
        )
    if found.cut_triggers:
        notes.append(f"{found.cut_triggers} triggered texts lost their trigger to the cut")
    return (*notes, *result.notes)
