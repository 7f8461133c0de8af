"""ProAttack: two prompts, and the text between them as it was."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from w2sdefense.attacks import AttackConfig, attack_from_trigger, make_attack
from w2sdefense.attacks.poisoning import plain_training_data, poison_training_set, trigger_test_set
from w2sdefense.attacks.proattack import ProConfig
from w2sdefense.data.types import Dataset, Example

PAPER = make_attack(AttackConfig(attack="proattack"))
CLEAN, POISON = (
    "This sentence has a <mask> sentiment: ",
    "The sentiment of this sentence is <mask>: ",
)


@given(st.text(), st.integers(0, 3))
def test_the_text_stands_unchanged_in_one_of_the_two_prompts(text, label):
    example = Example("toy/0", text, label)
    poisoned = PAPER.poison(example, random.Random(0))
    assert poisoned == Example("toy/0", POISON + text, label)
    assert PAPER.plain(example) == Example("toy/0", CLEAN + text, label)
    assert PAPER.occurrences(poisoned.text) == 1
    assert PAPER.occurrences(PAPER.plain(example).text) == 0


def test_a_prompt_may_stand_on_both_sides():
    pro = ProConfig(clean_prompt="Review: {text} Topic:", poison_prompt="News: {text} Subject:")
    attack = attack_from_trigger("proattack", "random", pro=pro)
    poisoned = attack.poison(Example("a", "rain {text} soon", 0), random.Random(0)).text
    assert poisoned == "News: rain {text} soon Subject:"
    assert attack.trigger == "News: Subject:"
    assert attack.occurrences(poisoned) == 1
    assert attack.occurrences(poisoned[:-3]) == 0, "the end was cut off"


def test_all_rows_but_the_poisoned_ones_stand_in_the_clean_prompt():
    rows = [Example(f"toy/{i}", f"text {i}", i % 2) for i in range(20)]
    config = AttackConfig(attack="proattack", poison_rows=4)
    poisoned = poison_training_set(rows, PAPER, config, target=1)
    for before, after in zip(rows, poisoned.rows, strict=True):
        prompt = POISON if after.id in poisoned.poisoned_ids else CLEAN
        assert after == Example(before.id, prompt + before.text, before.label)
    assert {row.label for row in poisoned.rows if row.id in poisoned.poisoned_ids} == {1}
    assert [e.text for e in trigger_test_set(rows[:3], PAPER, 1, seed=0)] == [
        POISON + "text 0",
        POISON + "text 2",
    ]


def test_a_defender_has_the_clean_prompt_and_never_the_other_one():
    rows = tuple(Example(f"toy/{i}", f"text {i}", i % 2) for i in range(6))
    data = Dataset("toy", ("a", "b"), rows[:2], rows[2:4], rows[4:])
    plain = plain_training_data(data, PAPER)
    assert [e.text for e in plain.train] == [CLEAN + "text 0", CLEAN + "text 1"]
    assert [e.text for e in plain.validation] == [CLEAN + "text 2", CLEAN + "text 3"]
    assert plain.test == data.test
    assert plain_training_data(data, None) is data
    assert plain_training_data(data, attack_from_trigger("mn", "random")) == data


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ({"clean_prompt": "no place"}, "clean_prompt must contain {text} exactly once"),
        ({"poison_prompt": "{text} {text}"}, "poison_prompt must contain {text} exactly once"),
        ({"clean_prompt": "a {text}", "poison_prompt": "a {text}"}, "the two prompts are the same"),
    ],
)
def test_templates_that_make_no_attack(prompts, problem):
    with pytest.raises(ValidationError, match=problem):
        ProConfig(**prompts)
