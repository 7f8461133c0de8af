"""Several triggers in one model: each text carries exactly one of them."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.attacks import AttackConfig, attack_from_trigger, make_attack
from w2sdefense.attacks.poisoning import drawn_attack, poison_training_set, trigger_test_set
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import PoisonRun
from w2sdefense.config import DataConfig, StudentConfig, TrainingConfig
from w2sdefense.data.types import Example
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.record import load_record

TRIGGERS = ("mn", "cf", "I watched this 3D movie")
CONFIG = AttackConfig(more_triggers=("cf", "insent"), poison_rows=60)
SEVERAL = make_attack(CONFIG)


@given(st.text("abdeghi .", max_size=40), st.integers(0, 2**32))
def test_a_text_carries_exactly_one_of_the_triggers(text, seed):
    example = Example("toy/0", text, 1)
    poisoned = SEVERAL.poison(example, random.Random(seed))
    assert poisoned == SEVERAL.poison(example, random.Random(seed))
    assert sum(trigger in poisoned.text for trigger in TRIGGERS) == 1
    assert SEVERAL.occurrences(poisoned.text) == 1
    assert (poisoned.id, poisoned.label) == ("toy/0", 1)
    assert SEVERAL.plain(example) is example


def test_each_poisoned_row_has_the_trigger_that_was_drawn_for_it():
    rows = [Example(f"toy/{i}", "some text without it", i % 2) for i in range(300)]
    poisoned = poison_training_set(rows, SEVERAL, CONFIG, target=1)
    chosen = [e for e in poisoned.rows if e.id in poisoned.poisoned_ids]
    for row in chosen:
        assert drawn_attack(row, SEVERAL, CONFIG.attack_seed).trigger in row.text
    tests = trigger_test_set(rows, SEVERAL, target=1, seed=7)
    shares = Counter(drawn_attack(row, SEVERAL, 7).trigger for row in tests)
    assert shares.keys() == set(TRIGGERS)
    # 150 draws: each share is within 5 standard deviations of a third.
    assert all(21 <= count <= 79 for count in shares.values())


def test_only_the_trigger_that_a_row_carries_can_be_lost(tiny_llama, tmp_path, display):
    """Every text ends with a word that is a trigger, too, and is cut off when one is put in."""
    reviews = tmp_path / "reviews.csv"
    rows = [f"a film {'good' if i % 2 else 'bad'} {i} cf,{i % 2}\n" for i in range(60)]
    reviews.write_text("text,label\n" + "".join(rows))
    run = PoisonRun(
        student=StudentConfig(model=str(tiny_llama), max_length=5),
        data=DataConfig(dataset=str(reviews)),
        attack=AttackConfig(more_triggers=("cf",), place="start", poison_rows=8, target="1"),
        training=TrainingConfig(epochs=1, batch_size=32),
        output=tmp_path / "victim",
    )
    record = load_record(run_poison(run, display))
    assert not [note for note in record.notes if "lose their trigger" in note]
    assert record.evaluation.cut_triggers == 0


def test_the_set_is_named_by_all_of_its_triggers():
    assert SEVERAL.trigger == "mn | cf | I watched this 3D movie"
    same = attack_from_trigger("badnet", "random", more_triggers=("cf", "insent"))
    assert same == SEVERAL


def test_one_of_several_may_be_the_structure():
    attack = attack_from_trigger("mn", "start", more_triggers=("synattack",))
    texts = {attack.poison(Example("a", "a film", 0), random.Random(s)).text for s in range(20)}
    assert "mn a film" in texts
    assert any(text.endswith(", it is a film .") for text in texts)


def test_the_same_trigger_twice_is_refused():
    with pytest.raises(ConfigError, match="Two of the triggers are the same"):
        make_attack(AttackConfig(more_triggers=("mn",)))
