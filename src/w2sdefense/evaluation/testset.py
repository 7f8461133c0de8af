"""The test texts of a run: clean, and with the trigger where the right answer is not the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from w2sdefense.attacks import Attack
from w2sdefense.attacks.poisoning import drawn_attack, trigger_test_set
from w2sdefense.data.types import Answer, Example
from w2sdefense.errors import DataError
from w2sdefense.tasks import Task
from w2sdefense.text import TextProgress


@dataclass(frozen=True)
class TestSet:
    """What a model is asked, made once per command.

    Attributes:
        clean: Every test example, as the attack uses clean text.
        triggered: Those that ASR is counted on, with the trigger in their text.
        attack: What put it there; None without a trigger.
        target: What the trigger should force, as the user calls it.
        answer: The same, as an answer.
        by_attack: The attack that triggers each text, if there are several -> places in
            `triggered`.
    """

    clean: tuple[Example, ...]
    triggered: tuple[Example, ...] = ()
    attack: Attack | None = None
    target: str | None = None
    answer: Answer | None = None
    by_attack: dict[Attack, list[int]] = field(default_factory=dict)

    __test__: ClassVar[bool] = False  # no class of tests, whatever pytest takes it for

    def __len__(self) -> int:
        return len(self.clean) + len(self.triggered)


def make_test_set(
    examples: Sequence[Example],
    task: Task,
    attack: Attack | None = None,
    target: str | None = None,
    *,
    seed: int = 0,
    progress: TextProgress | None = None,
) -> TestSet:
    """Put the trigger into the test texts that ASR is counted on.

    Args:
        examples: Clean test examples.
        task: What the model is asked for.
        attack: Puts the trigger into a text; None measures clean text only.
        target: Name of the target label, or the target text; needed with an attack.
        seed: Seed of the places of the trigger.
        progress: Shows the work of a slow attack.

    Raises:
        DataError: The target is no answer, or the right answer to every test text.
    """
    if attack is None:
        return TestSet(tuple(examples))
    answer = task.target(target)
    triggered = trigger_test_set(examples, attack, answer, seed, task.is_target, progress)
    if not triggered:
        raise DataError(
            f"No test sample with another answer than {target!r} can carry the trigger, so ASR "
            "has nothing to count.",
            "Use test data with other answers, or another --target.",
        )
    by_attack: dict[Attack, list[int]] = {}
    for place, example in enumerate(triggered):
        by_attack.setdefault(drawn_attack(example, attack, seed), []).append(place)
    clean = tuple(attack.plain(example) for example in examples)
    return TestSet(clean, tuple(triggered), attack, target, answer, by_attack)
