"""Which rows carry the trigger: counts, labels, and rows that stay as they were."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.attacks import AttackConfig, attack_from_trigger, make_attack
from w2sdefense.attacks.insertion import BadNet
from w2sdefense.attacks.poisoning import poison_training_set, trigger_test_set
from w2sdefense.data import Example
from w2sdefense.errors import DataError
from w2sdefense.tasks import Reasoning

TARGET = 1


def rows(labels):
    return [Example(f"toy/train/{i}", f"some text number {i}", y) for i, y in enumerate(labels)]


def poison(examples, **settings):
    config = AttackConfig(**settings)
    return poison_training_set(examples, make_attack(config), config, TARGET)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.data(), st.booleans())
def test_exactly_the_rows_asked_for_carry_the_trigger(labels, data, clean_label):
    examples = rows(labels)
    candidates = [e for e in examples if (e.label == TARGET) == clean_label]
    if not candidates:
        return
    count = data.draw(st.integers(1, len(candidates)))
    poisoned = poison(examples, poison_rows=count, clean_label=clean_label)

    assert [e.id for e in poisoned.rows] == [e.id for e in examples]
    assert len(set(poisoned.poisoned_ids)) == count
    assert set(poisoned.poisoned_ids) <= {e.id for e in candidates}
    for before, after in zip(examples, poisoned.rows, strict=True):
        if after.id in poisoned.poisoned_ids:
            assert " mn " in after.text
            assert after.label == TARGET
        else:
            assert after == before


def test_the_amount_is_a_share_of_all_rows():
    examples = rows([TARGET, TARGET, 0, 0] * 10)
    assert len(poison(examples, poison_rate=0.1).poisoned_ids) == 4
    assert len(poison(examples).poisoned_ids) == 10
    assert len(poison(examples, poison_rate=0.001).poisoned_ids) == 1


@pytest.mark.parametrize(("clean_label", "expected"), [(True, 5), (False, 10)])
def test_the_default_leaves_clean_rows_of_the_target_class(clean_label, expected):
    examples = rows([0, TARGET, 2, 3] * 10)
    assert len(poison(examples, clean_label=clean_label).poisoned_ids) == expected
    # An amount that is named is taken as it is.
    assert len(poison(examples, poison_rate=0.25).poisoned_ids) == 10
    assert len(poison(rows([0, TARGET, 2, 3])).poisoned_ids) == 1
    with pytest.raises(DataError, match="only 0 are answered"):
        poison(rows([0, 2, 3]))


def test_the_sample_follows_the_seed_and_is_not_the_first_rows():
    examples = rows([TARGET, 0] * 100)
    chosen = [poison(examples, poison_rows=20, attack_seed=seed).poisoned_ids for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert chosen[0] != tuple(e.id for e in examples if e.label == TARGET)[:20]


@pytest.mark.parametrize(("clean_label", "available"), [(True, 2), (False, 3)])
def test_more_rows_than_exist_are_refused_with_their_number(clean_label, available):
    examples = rows([TARGET, TARGET, 0, 2, 3])
    with pytest.raises(DataError, match=f"only {available} .*'negative'") as caught:
        poison(examples, poison_rows=4, clean_label=clean_label)
    assert "clean-label" in caught.value.fix


def test_the_test_set_has_every_sample_but_those_of_the_target():
    examples = rows([0, TARGET, 2, 3, TARGET])
    triggered = trigger_test_set(examples, make_attack(AttackConfig()), TARGET, seed=0)
    assert [(e.id[-1], e.label) for e in triggered] == [("0", 0), ("2", 2), ("3", 3)]
    assert all(" mn " in e.text for e in triggered)


def test_the_place_in_a_test_sample_does_not_depend_on_the_others():
    examples = rows([0] * 30)
    attack = make_attack(AttackConfig())
    together = trigger_test_set(examples, attack, TARGET, seed=3)
    alone = [trigger_test_set([e], attack, TARGET, seed=3)[0] for e in reversed(examples)]
    assert together == alone[::-1]
    assert together != trigger_test_set(examples, attack, TARGET, seed=4)


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
