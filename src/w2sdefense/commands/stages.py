"""The stages of a run put together: poison, teach, defend, evaluate.

Each function does one command from its settings to its record. A stage whose record was written
with the same settings is not repeated under `resume`; a stage that was cut off goes on from its
last checkpoint. Under torchrun every process runs the same stage, and the first one writes. Nothing
here decides how a stage works. What is asked for text goes its own way, in `generation.py`.
"""

from __future__ import annotations

from pathlib import Path

from w2sdefense.attacks import Attack, TestConfig, make_attack
from w2sdefense.attacks.poisoning import (
    drawn_attack,
    plain_training_data,
    poison_training_set,
)
from w2sdefense.cli.display import Display
from w2sdefense.commands import generation
from w2sdefense.commands.folders import (
    begin,
    lost_in_training,
    merge_finished,
    refuse_finished,
    refuse_own_model,
    save_merged,
    tested_in_training,
)
from w2sdefense.commands.measure import Measured
from w2sdefense.commands.preflight import check_defended_model, check_poisoned_model
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun, TeachRun
from w2sdefense.config import DataConfig, StudentConfig
from w2sdefense.data import (
    PAPER,
    TextDataset,
    align_labels,
    fingerprint,
    load_dataset,
    proxy_of,
    texts_of,
)
from w2sdefense.defenses import DEFENSES, Defense, DefenseKit, Leaves
from w2sdefense.distill.pieces import refuse_pieces
from w2sdefense.distill.teacher import Teacher, fit_or_load_teacher
from w2sdefense.distill.writer_teacher import WriterTeacher
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.evaluate import label_index
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import (
    RECORD,
    load_record,
)
from w2sdefense.io import make_folder
from w2sdefense.models.checkpoint import resolve, resolve_whole
from w2sdefense.models.predictor import cut_tokens
from w2sdefense.scan.origin import origin_hint
from w2sdefense.training.trainer import check_tracker, remove_checkpoints, this_process
from w2sdefense.victim import Victim, fine_tune, load_victim, new_victim


def run_poison(run: PoisonRun, display: Display) -> Path:
    """Poison a model, measure it, and write it as a `transformers` folder with its record.

    Returns:
        The run's folder.
    """
    refuse_pieces("poison")
    refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    check_poisoned_model(run)
    proxy = proxy_of(run.data.dataset) if run.proxy == PAPER else run.proxy
    if run.task != "classification":
        return generation.run_poison(run, display)
    if begin(run.output, run):
        return run.output
    clock = Clock()
    attack = make_attack(run.attack)
    data = load_dataset(run.data)
    victim = new_victim(run.student, data.label_names, run.training.seed)
    # A classifier brings labels in an order of its own.
    data = align_labels(data, victim.label_names)
    source = data if proxy is None else _proxy_data(proxy, run.data, data)
    target = label_index(run.attack.target, data.label_names)
    poisoned = poison_training_set(source.train, attack, run.attack, target, display.texts)
    display.say(
        f"Poisoning {run.student.model}: {len(poisoned.poisoned_ids)} of "
        f"{len(poisoned.rows)} rows of {source.name} carry {attack.trigger!r} -> "
        f"{run.attack.target}"
    )
    texts = texts_of(poisoned.poisoned)
    attacks = [drawn_attack(e, attack, run.attack.attack_seed) for e in poisoned.poisoned]
    cut_at = cut_tokens(victim.tokenizer, texts, victim.max_length)[1]
    victim.notes += lost_in_training(zip(attacks, texts, cut_at, strict=True))
    victim.notes += tested_in_training(data.test, source.train)
    for note in victim.notes:
        display.say(f"Note: {note}")
    fine_tune(
        victim,
        poisoned.rows,
        run.training,
        run.output,
        resume=run.resume,
        progress=display.steps("poison"),
    )
    measured = Measured(run.output.name, "poison", run.model_dump(mode="json"), data, clock)
    measured.prints = {"train": fingerprint(poisoned.rows)}
    measured.measure(victim, attack, run.attack.target, run.attack.attack_seed, display)
    if this_process().is_main_process:
        victim.save(run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    # The next stage of the others reads it.
    this_process().wait_for_everyone()
    return run.output


def run_teach(run: TeachRun, display: Display) -> Teacher | WriterTeacher:
    """Fine-tune a teacher for a student, or open the one that was made with the same settings."""
    refuse_pieces("teach")
    make_folder(run.output)
    if run.task != "classification":
        return generation.run_teach(run, display)
    data = load_dataset(run.data)
    # As `run_defend` has them, which would not know the teacher again otherwise.
    student = resolve(run.student.model, run.student.base)
    names = student.label_names
    return fit_or_load_teacher(
        run.teacher,
        data if names is None else align_labels(data, names),
        student.width,
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
    if run.task != "classification":
        return generation.run_evaluate(run, display)
    if begin(run.output, run):
        return run.output
    clock = Clock()
    attack = _test_attack(run.test)
    victim, data = open_victim(run.student, run.data)
    measured = Measured(run.output.name, "evaluate", run.model_dump(mode="json"), data, clock)
    measured.measure(victim, attack, run.test.target, run.test.test_seed, display)
    if this_process().is_main_process:
        measured.save(run.output)
    this_process().wait_for_everyone()
    return run.output


def run_defend(run: DefendRun, display: Display) -> list[Path]:
    """Measure a model, defend it, measure it again.

    Returns:
        The folders of the two records, before and after.
    """
    refuse_finished(run.output, resume=run.resume)
    if run.task != "classification":
        generation.check_defense(run)
        refuse_pieces(f"--task {run.task}")
    elif run.defense not in ("w2s", "lora"):
        refuse_pieces(f"--defense {run.defense}")
    if run.student.base is not None:
        refuse_pieces("--base")
    before = EvaluateRun(
        task=run.task,
        student=run.student,
        data=run.data,
        generation=run.generation,
        test=run.test,
        output=run.output / "before",
        resume=run.resume,
    )
    refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    # What it misses must not come out after the first evaluation.
    defense = _defense(run) if run.task == "classification" else None
    make_folder(run.output)
    if run.defense == "w2s" and run.task == "classification":
        hint = origin_hint(run.student, run.scan, "--scan-fine-tuned-from")
        if hint and run.scan.rate:
            display.say(hint)
        _find_teacher(run)
    if not run.resume and this_process().is_main_process:
        # What a run that was cut off had measured; this one begins anew.
        (before.output / RECORD).unlink(missing_ok=True)
    this_process().wait_for_everyone()
    return [run_evaluate(before, display), run_defense(run, display, defense)]


def run_defense(run: DefendRun, display: Display, defense: Defense | None = None) -> Path:
    """Defend a model and measure the result; write what the defense made, and the record.

    Args:
        run: The run.
        display: Shows the progress.
        defense: The run's defense, if its settings were looked at before.

    Returns:
        The run's folder.
    """
    refuse_own_model(run.student.model, run.output)
    check_tracker(run.training)
    if run.task != "classification":
        return generation.run_defense(run, display)
    if defense is None:
        defense = _defense(run)
    # What was an adapter already is folded in, and the new adapter fits that fold only.
    adapted = defense.leaves is Leaves.ADAPTER
    merge = run.merge or (adapted and run.student.base is not None)
    if begin(run.output, run):
        if merge:
            merge_finished(
                run, lambda student: load_victim(student, load_record(run.output).label_names)
            )
        return run.output
    clock = Clock()
    attack = _test_attack(run.test)
    victim, data = open_victim(run.student, run.data)
    # The prompt that a model is used with comes with the model; the trigger does not.
    data = plain_training_data(data, attack)
    kit = DefenseKit(
        data=data,
        folder=run.output,
        teacher=run.teacher,
        teacher_folder=_teacher_folder(run),
        resume=run.resume,
        progress=display.steps,
    )
    defended = defense.apply(victim, kit)
    measured = Measured(run.output.name, "defend", run.model_dump(mode="json"), data, clock)
    measured.prints = {"train": fingerprint(data.train)}
    measured.measure(defended, attack, run.test.target, run.test.test_seed, display)
    if this_process().is_main_process:
        if isinstance(defended, Victim):
            defended.save(run.output)
            if merge:
                save_merged(defended, run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    this_process().wait_for_everyone()
    return run.output


def _find_teacher(run: DefendRun) -> None:
    """Fail over a teacher that cannot be had before the first measurement rather than after it."""
    folder = _teacher_folder(run)
    make_folder(folder)
    if not (folder / "teacher.json").is_file():
        refuse_pieces("The training of a teacher")
        resolve_whole(run.teacher.model, "Name a whole model as the teacher.")


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
    check_defended_model(run)
    return kind.from_run(run)


def open_victim(student: StudentConfig, config: DataConfig) -> tuple[Victim, TextDataset]:
    """The model, and the data in its order of labels; the data first, because it fails faster."""
    data = load_dataset(config)
    victim = load_victim(student, data.label_names)
    return victim, align_labels(data, victim.label_names)


def _proxy_data(name: str, config: DataConfig, data: TextDataset) -> TextDataset:
    proxy = load_dataset(config.model_copy(update={"dataset": name}))
    return align_labels(proxy, data.label_names)


def _test_attack(test: TestConfig) -> Attack | None:
    return None if test.trigger is None else make_attack(test)
