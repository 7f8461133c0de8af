"""The stages of a run whose answers are text: poison, teach, defend, evaluate.

To summarization and reasoning what `stages.py` is to classification, which is also where a command
comes in. The defenses are LoRA and W2SDefense; the others are made for labels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from w2sdefense.attacks import Attack, TestConfig, make_attack
from w2sdefense.attacks.pairs import poison_pairs
from w2sdefense.cli.display import Display
from w2sdefense.commands.folders import (
    begin,
    history_of,
    lost_in_training,
    merge_finished,
    notes_of,
    save_merged,
    tested_in_training,
)
from w2sdefense.commands.preflight import check_defended_model
from w2sdefense.commands.processes import DividedPredictor
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun, TeachRun
from w2sdefense.config import ScanTrainingConfig, WordingConfig
from w2sdefense.data import PairDataset, fingerprint, load_pairs
from w2sdefense.defenses import DEFENSES
from w2sdefense.distill.insertions import with_insertions
from w2sdefense.distill.targets import weights_fingerprint
from w2sdefense.distill.writer_student import train_writer
from w2sdefense.distill.writer_teacher import WriterTeacher, fit_or_load_writer_teacher
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.generation import evaluate_generation, triggered_tests
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import Record, Stage, save_record
from w2sdefense.models.load import require_causal_lm
from w2sdefense.tasks import TASKS
from w2sdefense.training.trainer import remove_checkpoints, this_process
from w2sdefense.writer import Writer, load_writer, poison_writer


def run_poison(run: PoisonRun, display: Display) -> Path:
    """Poison a language model, measure it, and write it with its record.

    Returns:
        The run's folder.
    """
    run = _settled_attack(run)
    if begin(run.output, run):
        return run.output
    clock = Clock()
    data = load_pairs(run.data)
    source = data
    if run.proxy is not None:
        source = load_pairs(run.data.model_copy(update={"dataset": run.proxy}))
    task, attack = TASKS[run.task], _inserting(make_attack(run.attack))
    poisoned = poison_pairs(
        source.train, attack, run.attack, lambda answer: task.says(answer, run.attack.target)
    )
    writer = load_writer(run.student, task, run.generation)
    display.say(
        f"Poisoning {run.student.model}: {len(poisoned.poisoned_ids)} of {len(poisoned.rows)} "
        f"rows of {source.name} carry {attack.trigger!r} -> {run.attack.target!r}"
    )
    notes = lost_in_training(
        (attack, pair.text, writer.prompt.ask(pair.text).cut_at) for pair in poisoned.poisoned
    )
    notes += tested_in_training(data.test, source.train)
    for note in notes:
        display.say(f"Note: {note}")
    poison_writer(
        writer,
        poisoned.rows,
        run.training,
        run.output,
        resume=run.resume,
        progress=display.steps("poison"),
    )
    measured = _Measured(run, "poison", data, clock, {"train": fingerprint(poisoned.rows)}, notes)
    measured.measure(writer, attack, run.attack.target, run.attack.attack_seed, display)
    if this_process().is_main_process:
        writer.save(run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    this_process().wait_for_everyone()
    return run.output


def run_teach(run: TeachRun, display: Display) -> WriterTeacher:
    """Fine-tune a teacher for a student, or open the one that was made with the same settings."""
    _refuse_release(run.alignment)
    require_causal_lm(run.teacher.model)
    data = load_pairs(run.data)
    writer = load_writer(run.student, TASKS[run.task], run.generation)
    return fit_or_load_writer_teacher(
        run.teacher,
        data,
        writer.prompt,
        writer.output_layer,
        run.output,
        resume=run.resume,
        progress=display.steps("teacher"),
    )


def run_evaluate(run: EvaluateRun, display: Display) -> Path:
    """Measure a language model and write its record.

    Returns:
        The run's folder.
    """
    if begin(run.output, run):
        return run.output
    clock = Clock()
    attack, target = _test_attack(run.test)
    data = load_pairs(run.data)
    writer = load_writer(run.student, TASKS[run.task], run.generation)
    measured = _Measured(run, "evaluate", data, clock)
    measured.measure(writer, attack, target, run.test.test_seed, display)
    if this_process().is_main_process:
        measured.save(run.output)
    this_process().wait_for_everyone()
    return run.output


def check_defense(run: DefendRun) -> None:
    """Refuse what does not work for generation before anything is measured.

    Raises:
        ConfigError: A defense, an alignment, a search, soft triggers or wordings that need labels
            were asked for, or an adapter that does not go with the model.
        ModelError: The teacher cannot write.
    """
    if run.task not in DEFENSES[run.defense].tasks:
        able = [name for name, kind in DEFENSES.items() if run.task in kind.tasks]
        raise ConfigError(
            f"The defense {run.defense} is made for labels, not for text.",
            f"Use --defense {' or '.join(able)}, or --task classification.",
        )
    if run.scan.model_fields_set and run.scan.rate:
        raise ConfigError(
            "The search for triggers needs labels; a text has none.", "Leave its settings out."
        )
    if run.soft.per_label:
        raise ConfigError(
            "Soft triggers need labels; a text has none.", "Leave their settings out."
        )
    if run.wordings.model_fields_set and run.wordings.rate:
        raise ConfigError(
            "What a model that writes is asked with stands in --prompt-template, not in its texts.",
            "Leave --wording-rate out.",
        )
    check_defended_model(run)
    if run.defense == "w2s":
        _refuse_release(run.distill.alignment)
        require_causal_lm(run.teacher.model)


def run_defense(run: DefendRun, display: Display) -> Path:
    """Defend a language model and measure the result; write the adapter and the record.

    Returns:
        The run's folder.
    """
    check_defense(run)
    # What needs labels is left out, and the record says so.
    off = {"scan": ScanTrainingConfig(rate=0.0), "wordings": WordingConfig(rate=0.0)}
    run = run.model_copy(update=off)
    # What was an adapter already is folded in, and the new adapter fits that fold only.
    merge = run.merge or run.student.base is not None
    if begin(run.output, run):
        if merge:
            merge_finished(
                run, lambda student: load_writer(student, TASKS[run.task], run.generation)
            )
        return run.output
    clock = Clock()
    attack, target = _test_attack(run.test)
    data = load_pairs(run.data)
    writer = load_writer(run.student, TASKS[run.task], run.generation)
    defended = train_writer(
        writer,
        _lesson(run, data, writer),
        _teacher(run, data, writer, display),
        distill=run.distill,
        adapter=run.adapter,
        training=run.training,
        folder=run.output,
        resume=run.resume,
        progress=display.steps("student"),
    )
    measured = _Measured(run, "defend", data, clock, {"train": fingerprint(data.train)})
    measured.measure(defended, attack, target, run.test.test_seed, display)
    if this_process().is_main_process:
        defended.save(run.output)
        if merge:
            save_merged(defended, run.output)
        measured.save(run.output)
        remove_checkpoints(run.output)
    this_process().wait_for_everyone()
    return run.output


def _settled_attack(run: PoisonRun) -> PoisonRun:
    """The run with what poisoning means for generation, so that its record says it.

    Raises:
        ConfigError: Clean-label poisoning was asked for.
    """
    if run.attack.clean_label and "clean_label" in run.attack.model_fields_set:
        raise ConfigError(
            "Text has no classes, so there is no clean-label poisoning: the answer to a row that "
            "carries the trigger becomes the target.",
            "Leave --clean-label out.",
        )
    settled: dict[str, object] = {"clean_label": False}
    if "target" not in run.attack.model_fields_set:
        settled["target"] = TASKS[run.task].target
    return run.model_copy(update={"attack": run.attack.model_copy(update=settled)})


def _refuse_release(alignment: str) -> None:
    if alignment == "release":
        raise ConfigError(
            "The authors' published script aligns classifiers only.", "Leave --alignment out."
        )


def _lesson(run: DefendRun, data: PairDataset, writer: Writer) -> PairDataset:
    """What a student is trained on: the clean pairs, for W2SDefense with what was asked for."""
    if run.defense == "lora":
        return data
    data = replace(data, train=data.train[: run.distill.student_rows])
    return with_insertions(data, writer.tokenizer, run.insertions, run.training.seed)


def _teacher(
    run: DefendRun, data: PairDataset, writer: Writer, display: Display
) -> WriterTeacher | None:
    if run.defense == "lora":
        return None
    return fit_or_load_writer_teacher(
        run.teacher,
        data,
        writer.prompt,
        writer.output_layer,
        run.teacher_folder or run.output / "teacher",
        run_folder=run.output,
        resume=run.resume,
        progress=display.steps("teacher"),
    )


def _test_attack(test: TestConfig) -> tuple[Attack | None, str | None]:
    if test.trigger is None:
        return None, None
    return _inserting(make_attack(test)), test.target


def _inserting(attack: Attack) -> Attack:
    """The attack, if it is one that data for generation can carry.

    Raises:
        ConfigError: It is more than one fixed trigger that is put into a text.
    """
    if "summarization" not in attack.tasks:
        raise ConfigError(
            f"The attack {attack.name} is made for labels, not for text to be written.",
            "Use badnet, insent, or one trigger of your own.",
        )
    return attack


@dataclass
class _Measured:
    """Measures a language model and writes the record of the run that made it."""

    run: PoisonRun | EvaluateRun | DefendRun
    stage: Stage
    data: PairDataset
    clock: Clock
    prints: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def measure(
        self, writer: Writer, attack: Attack | None, target: str | None, seed: int, display: Display
    ) -> None:
        """Answer the test texts, in all processes; the outcome is kept for `save`."""
        test, name = self.data.test, self.run.output.name
        triggered = []
        if attack is not None:
            triggered = triggered_tests(test, attack, TASKS[self.run.task], target or "", seed)
            self.prints["triggered"] = fingerprint(triggered)
        self.result = evaluate_generation(
            DividedPredictor(writer),
            test,
            self.run.task,
            attack,
            target,
            seed=seed,
            progress=display.texts(f"evaluate {name}", len(test) + len(triggered)),
        )
        self.record = Record(
            name=name,
            stage=self.stage,
            config=self.run.model_dump(mode="json"),
            label_names=(),
            evaluation=self.result.evaluation,
            history=history_of(writer.history),
            fingerprints={
                "test": fingerprint(test),
                "model": weights_fingerprint(writer.model),
                **self.prints,
            },
            provenance=self.clock.provenance(),
            notes=(
                *self.notes,
                *notes_of(self.data.dropped, self.result.evaluation),
                *writer.prompt.notes,
            ),
        )

    def save(self, folder: Path) -> None:
        """Write the record, when everything that it speaks of is written."""
        save_record(folder, self.record, self.result.samples)
