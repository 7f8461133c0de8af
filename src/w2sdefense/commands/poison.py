"""`w2s poison`: plants a backdoor in a model that you own, and measures it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from w2sdefense.attacks import Attack, count_lost, make_attack
from w2sdefense.attacks.poisoning import drawn_attack, poison_training_set
from w2sdefense.cli.display import Display
from w2sdefense.commands.evaluate import measure
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import PoisonRun
from w2sdefense.commands.start import begin, open_data, open_victim
from w2sdefense.data import PAPER, align_labels, proxy_of, texts_of
from w2sdefense.data.splits import known_texts, near_note
from w2sdefense.data.types import Example
from w2sdefense.evaluation.evaluate import make_test_set
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.tasks import TASKS
from w2sdefense.victim import fine_tune


@stage
def run_poison(run: PoisonRun, display: Display) -> Path:
    """Poison a model, measure it, and write a `transformers` folder with its record."""
    run = _settled_attack(run)
    proxy = proxy_of(run.data.dataset) if run.proxy == PAPER else run.proxy
    if begin(run.output, run):
        return run.output
    clock = Clock()
    attack = make_attack(run.attack)
    # A classifier has its own order of labels, to which the data are aligned.
    victim, data = open_victim(run, fresh_head_seed=run.training.seed)
    task, source = victim.task, data
    if proxy is not None:
        proxied = open_data(run.data.model_copy(update={"dataset": proxy}), run.task)
        source = align_labels(proxied, data.label_names)
    poisoned = poison_training_set(
        source.train, attack, run.attack, task.target(run.attack.target), task.is_target
    )
    display.say(
        f"Poisoning {run.student.model}: {len(poisoned.poisoned_ids)} of "
        f"{len(poisoned.rows)} rows of {source.name} carry {attack.trigger!r} -> "
        f"{run.attack.target}"
    )
    texts = texts_of(poisoned.poisoned)
    attacks = [drawn_attack(e, attack, run.attack.attack_seed) for e in poisoned.poisoned]
    cut_at = task.cut_points(texts)
    victim.notes += lost_in_training(zip(attacks, texts, cut_at, strict=True))
    victim.notes += tested_in_training(data.test, source.train)
    for note in victim.notes:
        display.say(f"Note: {note}")
    target, seed = run.attack.target, run.attack.attack_seed
    test = make_test_set(data.test, task, attack, target, seed=seed)
    fine_tune(
        victim,
        poisoned.rows,
        run.training,
        run.output,
        resume=run.resume,
        progress=display.steps("poison"),
    )
    measure(victim, test, run, data, clock, display, poisoned.rows)
    return run.output


def _settled_attack(run: PoisonRun) -> PoisonRun:
    """The run with settings that its task determines, so that the record contains them."""
    task = TASKS[run.task]
    if not task.text_answers:
        return run
    settled: dict[str, object] = {"clean_label": False}
    if "target" not in run.attack.model_fields_set:
        settled["target"] = task.default_target
    return run.model_copy(update={"attack": run.attack.model_copy(update=settled)})


def tested_in_training(tested: Sequence[Example], trained: Sequence[Example]) -> tuple[str, ...]:
    """Notes on test texts that the attacker trained on, which inflate the clean accuracy."""
    known = known_texts(tested, trained)
    counted = f"{known} of {len(tested)} test texts are among the attacker's training rows"
    near = near_note(tested, trained, "test texts nearly repeat one of the attacker's rows")
    return (counted, *near) if known else near


def lost_in_training(texts: Iterable[tuple[Attack, str, int | None]]) -> tuple[str, ...]:
    """A note on poisoned rows whose trigger is cut off by the model's length limit, if any.

    Args:
        texts: For every row, the attack, the text, and the character at which the text is cut.
    """
    rows = list(texts)
    if not (lost := count_lost(rows)):
        return ()
    return (
        f"{lost} of {len(rows)} poisoned training rows lose their trigger to the model's limit and "
        "teach no backdoor (raise --max-length; a trigger that is inserted can stand at the start: "
        "--place start)",
    )
