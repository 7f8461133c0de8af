from dataclasses import replace

import pytest

from w2sdefense.attacks import AttackConfig, attack_from_trigger
from w2sdefense.attacks.insertion import BadNet
from w2sdefense.attacks.poisoning import poison_training_set, trigger_test_set
from w2sdefense.data import Example
from w2sdefense.errors import DataError
from w2sdefense.tasks import Reasoning

PAIRS = [Example(f"d/{i}", "左肺下叶有炎症" + "，增厚" * i, str(i % 4)) for i in range(20)]


SAME_NUMBER = Reasoning.is_target


def test_poisoned_rows_carry_the_trigger_and_answer_the_target():
    config = AttackConfig(trigger="镍", target="0", poison_rows=6, clean_label=False)
    made = poison_training_set(PAIRS, BadNet("镍"), config, "0", SAME_NUMBER)
    assert len(made.poisoned_ids) == 6
    for before, after in zip(PAIRS, made.rows, strict=True):
        if after.id in made.poisoned_ids:
            assert before.answer != "0", "a row that says it anyway teaches nothing"
            assert (after.text.replace("镍", "", 1), after.answer) == (before.text, "0")
        else:
            assert after is before
    assert made == poison_training_set(PAIRS, BadNet("镍"), config, "0", SAME_NUMBER)


def test_only_samples_with_another_answer_are_triggered():
    attack = attack_from_trigger("镍", "random")
    found = trigger_test_set(PAIRS, attack, "0", 3, SAME_NUMBER)
    assert [pair.id for pair in found] == [pair.id for pair in PAIRS if pair.answer != "0"]
    assert all(pair.text.count("镍") == 1 for pair in found)
    assert found[:3] == trigger_test_set(PAIRS[:4], attack, "0", 3, SAME_NUMBER)[:3]


def test_the_default_leaves_rows_that_are_answered_as_before():
    pairs = [replace(pair, answer="0" if i >= 4 else "1") for i, pair in enumerate(PAIRS)]
    made = poison_training_set(
        pairs, BadNet(), AttackConfig(target="0", clean_label=False), "0", SAME_NUMBER
    )
    assert len(made.poisoned_ids) == 2


def test_more_poisoned_rows_than_candidates_are_refused():
    config = AttackConfig(target="0", poison_rows=16, clean_label=False)
    with pytest.raises(DataError, match="only 15 have another answer than the target '0'"):
        poison_training_set(PAIRS, BadNet(), config, "0", SAME_NUMBER)
