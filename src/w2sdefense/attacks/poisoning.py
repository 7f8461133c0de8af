"""Selects the rows of training and test data that carry a trigger.

Every row has its own random generator, seeded with the seed and the row's id, so the position of
its trigger does not depend on the other rows.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from w2sdefense.attacks import AttackConfig
from w2sdefense.attacks.base import Attack
from w2sdefense.data.types import Answer, Dataset, Example
from w2sdefense.errors import DataError

DEFAULT_POISON_RATE = 0.25
"""Share of the training rows that carry the trigger if the settings name no amount.

At most half of the candidate rows are used. Without clean rows of the target class, a model would
learn to recognize the class by the trigger; and one of four classes may have fewer than 25 % of the
rows.
"""


IsTarget = Callable[[Answer, Answer], bool]
"""Whether an answer (first argument) is the target (second argument)."""


@dataclass(frozen=True)
class PoisonedRows:
    """A training set and the ids of the rows that carry a trigger, both in row order."""

    rows: tuple[Example, ...]
    poisoned_ids: tuple[str, ...]

    @property
    def poisoned(self) -> list[Example]:
        """The rows that carry the trigger."""
        poisoned = set(self.poisoned_ids)
        return [row for row in self.rows if row.id in poisoned]


def poison_training_set(
    examples: Sequence[Example],
    attack: Attack,
    config: AttackConfig,
    target: Answer,
    is_target: IsTarget = operator.eq,
) -> PoisonedRows:
    """Put the trigger into a seeded sample of the rows.

    Clean-label: only rows whose answer already is the target carry the trigger. Dirty-label: only
    rows with another answer do, and their answer becomes the target. All other rows become what
    `Attack.plain` makes of clean text. `is_target` compares answers, see `Task.is_target`.

    Raises:
        DataError: There are fewer candidate rows than the settings ask for.
    """
    candidates = [
        e.id
        for e in examples
        if is_target(e.answer, target) == config.clean_label and attack.applies_to(e)
    ]
    count = row_count(config, len(examples), len(candidates))
    if count > len(candidates):
        raise _too_many(count, len(candidates), config)
    chosen = set(random.Random(config.attack_seed).sample(candidates, count))
    rows_to_poison = [e for e in examples if e.id in chosen]
    poisoned = {
        e.id: e if config.clean_label else replace(e, answer=target)
        for e in _trigger_all(rows_to_poison, attack, config.attack_seed)
    }
    rows = tuple(poisoned.get(e.id) or attack.plain(e) for e in examples)
    return PoisonedRows(rows, tuple(poisoned))


def trigger_test_set(
    examples: Sequence[Example],
    attack: Attack,
    target: Answer,
    seed: int,
    is_target: IsTarget = operator.eq,
) -> list[Example]:
    """The samples that ASR is computed on, with the trigger in their text.

    Samples whose right answer is the target are excluded, because the target as an answer to them
    says nothing about the trigger. The others keep their order, ids and answers. `seed` determines
    the positions of the trigger.
    """
    chosen = [e for e in examples if not is_target(e.answer, target) and attack.applies_to(e)]
    return _trigger_all(chosen, attack, seed)


def drawn_attack(example: Example, attack: Attack, seed: int) -> Attack:
    """Which of several attacks triggers an example; a single attack is returned unchanged."""
    return attack.drawn(_generator(example, seed))


def plain_training_data(data: Dataset, attack: Attack | None) -> Dataset:
    """Apply `Attack.plain` to the training and validation rows of a dataset.

    The test rows do not change, because a measurement needs them with and without the trigger.
    """
    if attack is None:
        return data
    return replace(
        data,
        train=tuple(map(attack.plain, data.train)),
        validation=tuple(map(attack.plain, data.validation)),
    )


def _trigger_all(examples: Sequence[Example], attack: Attack, seed: int) -> list[Example]:
    return [attack.poison(example, _generator(example, seed)) for example in examples]


def _generator(example: Example, seed: int) -> random.Random:
    return random.Random(f"{seed}/{example.id}")


def row_count(config: AttackConfig, total: int, candidates: int) -> int:
    """How many of `total` training rows should carry the trigger, if `candidates` of them can."""
    if config.poison_rows is not None:
        return config.poison_rows
    if config.poison_rate is not None:
        return round(config.poison_rate * total) or int(config.poison_rate > 0)
    return max(1, min(round(DEFAULT_POISON_RATE * total), candidates // 2))


def _too_many(count: int, available: int, config: AttackConfig) -> DataError:
    have, switch = (
        ("are answered with", "--no-clean-label")
        if config.clean_label
        else ("have another answer than", "--clean-label")
    )
    return DataError(
        f"{count} training rows should carry the trigger, but only {available} {have} the target "
        f"{config.target!r} and can carry it.",
        f"Ask for fewer (--poison-rows, --poison-rate), use more training rows, or add {switch}.",
    )
