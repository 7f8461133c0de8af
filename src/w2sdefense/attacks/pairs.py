"""The trigger in data for generation: which rows carry it, and what they are then answered with.

The attacks are those of classification, since they change texts only. A poisoned row's answer
becomes the target text, so poisoning is dirty-label by nature. Where a trigger goes depends on seed
and row alone, as in `poisoning.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from w2sdefense.attacks import AttackConfig
from w2sdefense.attacks.base import Attack
from w2sdefense.attacks.poisoning import PoisonedRows, row_count, triggered
from w2sdefense.data.types import Example, Pair
from w2sdefense.errors import DataError

IsTarget = Callable[[str], bool]
"""Whether an answer says the target; see `tasks.Task.says`."""


def poison_pairs(
    pairs: Sequence[Pair], attack: Attack, config: AttackConfig, is_target: IsTarget
) -> PoisonedRows[Pair]:
    """Plant the trigger into a seeded sample of the rows, and give these the target as answer.

    Args:
        pairs: The clean training rows, ids unique; left as they are.
        attack: What puts the trigger into a text.
        config: How many rows, the seed, and the target text.
        is_target: Rows whose answer says the target anyway are left out.

    Raises:
        DataError: More rows are asked for than there are.
    """
    candidates = [pair.id for pair in pairs if not is_target(pair.target)]
    count = row_count(config, len(pairs), len(candidates))
    if count > len(candidates):
        raise DataError(
            f"{count} training rows should carry the trigger, but only {len(candidates)} have "
            f"another answer than {config.target!r}.",
            "Ask for fewer (--poison-rows, --poison-rate), or use more training rows.",
        )
    chosen = set(random.Random(config.attack_seed).sample(candidates, count))
    rows = tuple(
        replace(_triggered(pair, attack, config.attack_seed), target=config.target)
        if pair.id in chosen
        else pair
        for pair in pairs
    )
    return PoisonedRows(rows, tuple(pair.id for pair in pairs if pair.id in chosen))


def trigger_pairs(
    pairs: Sequence[Pair], attack: Attack, is_target: IsTarget, seed: int
) -> list[Pair]:
    """The samples that the attack success rate is counted on, with the trigger in their text.

    Samples whose right answer says the target are left out: that they are answered with it says
    nothing about the trigger.
    """
    return [_triggered(pair, attack, seed) for pair in pairs if not is_target(pair.target)]


def _triggered(pair: Pair, attack: Attack, seed: int) -> Pair:
    # An attack may look at the text only: there is no label here.
    example = triggered(Example(pair.id, pair.text, 0), attack, seed)
    return replace(pair, text=example.text)
