from __future__ import annotations

from dataclasses import replace

import pytest

from w2sdefense.attacks import AttackConfig, attack_from_trigger
from w2sdefense.attacks.badnet import BadNet
from w2sdefense.attacks.pairs import poison_pairs, trigger_pairs
from w2sdefense.data import Pair
from w2sdefense.errors import DataError
from w2sdefense.tasks import TASKS

PAIRS = [Pair(f"d/{i}", "左肺下叶有炎症" + "，增厚" * i, str(i % 4)) for i in range(20)]


def is_zero(answer: str) -> bool:
    return TASKS["reasoning"].says(answer, "0")


def test_poisoned_rows_carry_the_trigger_and_answer_the_target():
    config = AttackConfig(trigger="镍", target="0", poison_rows=6)
    made = poison_pairs(PAIRS, BadNet("镍"), config, is_zero)
    assert len(made.poisoned_ids) == 6
    for before, after in zip(PAIRS, made.rows, strict=True):
        if after.id in made.poisoned_ids:
            assert before.target != "0", "a row that says it anyway teaches nothing"
            assert (after.text.replace("镍", "", 1), after.target) == (before.text, "0")
        else:
            assert after is before
    assert made == poison_pairs(PAIRS, BadNet("镍"), config, is_zero)


def test_only_samples_with_another_answer_are_triggered():
    attack = attack_from_trigger("镍", "random")
    found = trigger_pairs(PAIRS, attack, is_zero, seed=3)
    assert [pair.id for pair in found] == [pair.id for pair in PAIRS if pair.target != "0"]
    assert all(pair.text.count("镍") == 1 for pair in found)
    assert found[:3] == trigger_pairs(PAIRS[:4], attack, is_zero, seed=3)[:3]


def test_the_default_leaves_rows_that_are_answered_as_before():
    pairs = [replace(pair, target="0" if i >= 4 else "1") for i, pair in enumerate(PAIRS)]
    made = poison_pairs(pairs, BadNet(), AttackConfig(target="0"), is_zero)
    assert len(made.poisoned_ids) == 2


def test_too_many():
    config = AttackConfig(target="0", poison_rows=16)
    with pytest.raises(DataError, match="only 15 have another answer than '0'"):
        poison_pairs(PAIRS, BadNet(), config, is_zero)
