"""The stages of a run put together: poison, teach, defend, evaluate.

Each function does one command from its settings to its record. A stage whose record was written
with the same settings is not repeated under `resume`; a stage that was cut off goes on from its
last checkpoint. Under torchrun every process runs the same stage, and the first one writes. Nothing
here decides how a stage works.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2sdefense.attacks import Attack, attack_from_trigger, make_attack
from w2sdefense.attacks.poisoning import poison_training_set
from w2sdefense.config import DataConfig, StudentConfig
from w2sdefense.data import (
    TextDataset,
    align_labels,
    fingerprint,
    labels_of,
    load_dataset,
)
from w2sdefense.defenses import DEFENSES, Defended, Defense, DefenseKit, Guarded, Leaves
from w2sdefense.distill.targets import weights_fingerprint
from w2sdefense.distill.teacher import Teacher, fit_or_load_teacher
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.evaluate import evaluate, label_index
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import (
    RECORD,
    Evaluation,
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
from w2sdefense.training import check_tracker, remove_checkpoints, this_process
from w2sdefense.victim import Victim, fine_tune, load_victim, new_victim

STARTED = "settings.json"
"""The settings of a run, written when it begins: only with the same ones may it be gone on with."""

MERGED = "merged"

NOT_SETTINGS = frozenset({"output", "resume", "merge"})
"""What may differ between a record and the command that finds it again."""


def run_poison(run: PoisonRun, display: Display) -> Path:
    """Poison a model, measure it, and write it as a `transformers` folder with its record.

    Returns:
        The run's folder.
    """
    _refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    if _begin(run.output, run):
        return run.output
    clock = Clock()
    data = load_dataset(run.data)
    victim = new_victim(run.student, data.label_names, run.training.seed)
    # A classifier brings labels in an order of its own.
    data = align_labels(data, victim.label_names)
    source = data if run.proxy is None else _proxy_data(run.proxy, run.data, data)
    attack = make_attack(run.attack)
    target = label_index(run.attack.target, data.label_names)
    poisoned = poison_training_set(source.train, attack, run.attack, target)
    display.say(
        f"Poisoning {run.student.model}: {len(poisoned.poisoned_ids)} of "
        f"{len(poisoned.examples)} rows of {source.name} carry {attack.trigger!r} -> "
        f"{run.attack.target}"
    )
    fine_tune(
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
    if this_process().is_main_process:
        victim.save(run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    # The next stage of the others reads it.
    this_process().wait_for_everyone()
    return run.output


def run_teach(run: TeachRun, display: Display) -> Teacher:
    """Fine-tune a teacher for a student, or open the one that was made with the same settings."""
    _make_folder(run.output)
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
    victim, data = _open(run.student, run.data)
    measured = _Measured(run.output.name, "evaluate", run.model_dump(mode="json"), data, clock)
    measured.measure(victim, *_test_attack(run.test), run.test.test_seed, display)
    if this_process().is_main_process:
        measured.save(run.output)
    this_process().wait_for_everyone()
    return run.output


def run_defend(run: DefendRun, display: Display) -> list[Path]:
    """Measure a model, defend it, measure it again.

    Returns:
        The folders of the two records, before and after.
    """
    before = EvaluateRun(
        student=run.student,
        data=run.data,
        test=run.test,
        output=run.output / "before",
        resume=run.resume,
    )
    _refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    # What it misses must not come out after the first evaluation.
    _defense(run)
    _make_folder(run.output)
    _refuse_finished(run.output, resume=run.resume)
    if run.defense == "w2s":
        _find_teacher(run)
    if not run.resume and this_process().is_main_process:
        # What a run that was cut off had measured; this one begins anew.
        (before.output / RECORD).unlink(missing_ok=True)
    this_process().wait_for_everyone()
    return [run_evaluate(before, display), run_defense(run, display)]


def run_defense(run: DefendRun, display: Display) -> Path:
    """Defend a model and measure the result; write what the defense made, and the record.

    Returns:
        The run's folder.
    """
    _refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    defense = _defense(run)
    # What was an adapter already is folded in, and the new adapter fits that fold only.
    adapted = defense.leaves is Leaves.ADAPTER
    merge = run.merge or (adapted and run.student.base is not None)
    if _begin(run.output, run):
        if merge:
            _merge_finished(run)
        return run.output
    clock = Clock()
    victim, data = _open(run.student, run.data)
    kit = DefenseKit(
        data=data,
        folder=run.output,
        teacher=run.teacher,
        teacher_folder=_teacher_folder(run),
        resume=run.resume,
        progress=display.steps,
    )
    defended = defense.apply(victim, kit)
    measured = _Measured(run.output.name, "defend", run.model_dump(mode="json"), data, clock)
    measured.prints = {"train": fingerprint(data.train)}
    measured.measure(defended, *_test_attack(run.test), run.test.test_seed, display)
    if this_process().is_main_process:
        if isinstance(defended, Victim):
            defended.save(run.output)
            if merge:
                _save_merged(defended, run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    this_process().wait_for_everyone()
    return run.output


def _find_teacher(run: DefendRun) -> None:
    """Fail over a teacher that cannot be had before the first measurement rather than after it."""
    folder = _teacher_folder(run)
    _make_folder(folder)
    if not (folder / "teacher.json").is_file():
        feature_width(run.teacher.model)


def _teacher_folder(run: DefendRun) -> Path:
    return run.teacher_folder or run.output / "teacher"


def _defense(run: DefendRun) -> Defense:
    """The defense of a run.

    Raises:
        W2SError: What it needs is not there, or what is asked for makes no sense with it.
    """
    kind = DEFENSES[run.defense]
    if run.merge and kind.leaves is not Leaves.ADAPTER:
        raise ConfigError(
            f"--merge folds an adapter in, but {run.defense} leaves {kind.leaves}.",
            "Leave --merge out.",
        )
    return kind.from_run(run)


def _merge_finished(run: DefendRun) -> None:
    """Fold the adapter of a finished run in, if that was not asked for when it ran."""
    if not this_process().is_main_process or (run.output / MERGED).is_dir():
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
        model: Defended,
        attack: Attack | None,
        target: str | None,
        seed: int,
        display: Display,
    ) -> None:
        """Answer the test texts, in all processes; the outcome is kept for `save`."""
        test, names = self.data.test, model.label_names
        self.result = evaluate(
            DividedPredictor(model),
            test,
            names,
            attack,
            target,
            seed=seed,
            progress=display.texts(f"evaluate {self.name}", _count(test, attack, names, target)),
        )
        victim = model.victim if isinstance(model, Guarded) else model
        self.record = Record(
            name=self.name,
            stage=self.stage,
            config=self.config,
            label_names=names,
            evaluation=self.result.evaluation,
            history=_history(model.history),
            fingerprints={
                "test": fingerprint(test),
                "model": weights_fingerprint(victim.model),
                **self.prints,
            },
            found=model.found,
            provenance=self.clock.provenance(),
            notes=(*model.notes, *_notes(self.data, self.result.evaluation)),
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


def _test_attack(test: TestConfig) -> tuple[Attack | None, str | None]:
    if test.trigger is None:
        return None, None
    return attack_from_trigger(test.trigger, test.place), test.target


def _count(
    test: tuple[Any, ...], attack: Attack | None, names: tuple[str, ...], target: str | None
) -> int:
    if attack is None:
        return len(test)
    index = label_index(target, names)
    return len(test) + sum(label != index for label in labels_of(test))


def _begin(folder: Path, run: PoisonRun | EvaluateRun | DefendRun) -> bool:
    """Whether the folder holds the results of just this run; if not, note what is begun in it.

    Raises:
        ConfigError: A run with other settings is in the way, or a finished one without `resume`.
    """
    state = this_process()
    wanted = run.model_dump(mode="json")
    _make_folder(folder)
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


def _make_folder(folder: Path) -> None:
    """Make the folder of a run before anything is computed for it.

    Raises:
        ConfigError: It cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be a folder for results: {error.strerror}.",
            "Choose another folder.",
        ) from None


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


def _history(log: list[dict[str, float]]) -> tuple[LossPoint, ...]:
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


def _notes(data: TextDataset, found: Evaluation) -> tuple[str, ...]:
    notes = [f"{count} rows left out: {reason}" for reason, count in data.dropped.items() if count]
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
    return tuple(notes)
