"""Which rows carry a trigger, in the training data and in the test data.

Every row draws from a generator of its own, seeded by the seed and the row's id: where its trigger
goes does not depend on the other rows, on their order, or on how many there are. How the trigger is
put into a text is the business of the attack.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from w2sdefense.attacks.base import Attack
from w2sdefense.config import AttackConfig
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError

DEFAULT_POISON_RATE = 0.25
"""Share of the training rows that carry the trigger if the settings name no amount."""


@dataclass(frozen=True)
class PoisonedSet:
    """A training set of which some rows carry a trigger.

    Attributes:
        examples: All rows, in the order they came in.
        poisoned_ids: Ids of the rows that carry the trigger, in the same order.
    """

    examples: tuple[Example, ...]
    poisoned_ids: tuple[str, ...]


def poison_training_set(
    examples: Sequence[Example], attack: Attack, config: AttackConfig, target: int
) -> PoisonedSet:
    """Plant the trigger into a seeded sample of the rows.

    Clean-label: only rows that have the target label already carry the trigger. Dirty-label: only
    rows of other labels do, and their label becomes the target.

    Args:
        examples: The clean training rows, ids unique; left as they are.
        attack: What puts the trigger into a text.
        config: How many rows, clean- or dirty-label, and the seed.
        target: Index of the label that triggered text should get.

    Raises:
        DataError: More rows are asked for than there are.
    """
    candidates = [e.id for e in examples if (e.label == target) == config.clean_label]
    count = row_count(config, len(examples))
    if count > len(candidates):
        raise _too_many(count, len(candidates), config)
    chosen = set(random.Random(config.attack_seed).sample(candidates, count))
    rows = tuple(
        replace(triggered(e, attack, config.attack_seed), label=target) if e.id in chosen else e
        for e in examples
    )
    return PoisonedSet(rows, tuple(e.id for e in examples if e.id in chosen))


def trigger_test_set(
    examples: Sequence[Example], attack: Attack, target: int, seed: int
) -> list[Example]:
    """The samples that the attack success rate is counted on, with the trigger in their text.

    Args:
        examples: The clean test samples; left as they are.
        attack: What puts the trigger into a text.
        target: Index of the target label. Its own samples are left out: that they are answered with
            the target says nothing about the trigger.
        seed: Seed of the places.

    Returns:
        The samples of the other labels in their order, ids and labels kept.
    """
    return [triggered(e, attack, seed) for e in examples if e.label != target]


def triggered(example: Example, attack: Attack, seed: int) -> Example:
    """A row with the trigger in its text, at a place that seed and id decide."""
    return attack.poison(example, random.Random(f"{seed}/{example.id}"))


def row_count(config: AttackConfig, total: int) -> int:
    """How many of some training rows are to carry the trigger."""
    if config.poison_rows is not None:
        return config.poison_rows
    rate = DEFAULT_POISON_RATE if config.poison_rate is None else config.poison_rate
    return max(1, round(rate * total))


def _too_many(count: int, available: int, config: AttackConfig) -> DataError:
    have, switch = (
        ("have", "--no-clean-label") if config.clean_label else ("do not have", "--clean-label")
    )
    return DataError(
        f"{count} training rows should carry the trigger, but only {available} of them {have} the "
        f"target label {config.target!r}.",
        f"Ask for fewer (--poison-rows, --poison-rate), use more training rows, or add {switch}.",
    )
