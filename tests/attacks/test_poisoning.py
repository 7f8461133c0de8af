"""Which rows carry the trigger: counts, labels, and rows that stay as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.attacks import AttackConfig, make_attack
from w2sdefense.attacks.poisoning import poison_training_set, trigger_test_set
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError

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
