"""What a command works on: the model, the data in its order of labels, and the test texts."""

from __future__ import annotations

from w2sdefense.attacks import Attack, TestConfig, make_attack
from w2sdefense.cli.display import Display
from w2sdefense.config import DEFAULT_TASK, DataConfig, GenerationConfig, StudentConfig
from w2sdefense.data import Dataset, align_labels, load_dataset
from w2sdefense.evaluation.evaluate import TestSet, make_test_set
from w2sdefense.scan.origin import template_of_another
from w2sdefense.tasks import TASKS
from w2sdefense.victim import Victim, load_victim


def open_data(config: DataConfig, task: str) -> Dataset:
    """The data of a task."""
    return load_dataset(config, text_answers=TASKS[task].text_answers)


def open_victim(
    student: StudentConfig,
    config: DataConfig,
    task: str = DEFAULT_TASK,
    generation: GenerationConfig | None = None,
    *,
    fresh_head_seed: int | None = None,
) -> tuple[Victim, Dataset]:
    """A model and its data; the data are opened first, because they fail faster."""
    data = open_data(config, task)
    victim = load_victim(
        student,
        data.label_names or None,
        task=task,
        generation=generation,
        fresh_head_seed=fresh_head_seed,
    )
    if TASKS[task].text_answers:
        victim.notes += template_of_another(student)
    return victim, align_labels(data, victim.label_names)


def test_attack(test: TestConfig) -> Attack | None:
    """The attack that a model is measured with; None measures clean text only."""
    return None if test.trigger is None else make_attack(test)


def open_test_set(victim: Victim, data: Dataset, test: TestConfig, display: Display) -> TestSet:
    """The test texts of a run, triggered once."""
    return make_test_set(
        data.test,
        victim.task,
        test_attack(test),
        test.target,
        seed=test.test_seed,
        progress=display.texts,
    )
