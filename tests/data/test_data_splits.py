from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.data.splits import (
    carve,
    complete_splits,
    drop_duplicates,
    limit,
    normal_form,
    pick_splits,
    stratified_order,
)
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError


def examples_of(labels: list[int], source: str = "d/train") -> list[Example]:
    return [Example(f"{source}/{i}", f"{source} text {i}", label) for i, label in enumerate(labels)]


many_labels = st.lists(st.integers(0, 3), min_size=1, max_size=120)
seeds = st.integers(0, 2**40)


@given(many_labels, seeds)
def test_every_prefix_of_the_order_has_the_class_shares_of_the_whole(labels, seed):
    order = stratified_order(examples_of(labels), seed)
    assert Counter(order) == Counter(examples_of(labels))
    shares = {label: n / len(labels) for label, n in Counter(labels).items()}
    for length in range(len(order) + 1):
        found = Counter(example.label for example in order[:length])
        for label, share in shares.items():
            assert abs(found[label] - share * length) <= 1 + len(shares) / 2


@given(many_labels, seeds, st.randoms())
def test_the_order_does_not_depend_on_the_order_of_the_file(labels, seed, random):
    examples = examples_of(labels)
    shuffled = list(examples)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert stratified_order(shuffled, seed) == stratified_order(examples, seed)


def test_unequal_classes_keep_their_shares_in_every_prefix():
    order = stratified_order(examples_of([0] * 90 + [1] * 10), seed=5)
    for length in range(101):
        rare = sum(example.label for example in order[:length])
        assert abs(rare - length / 10) < 1


def test_a_class_too_rare_to_be_divided_stays_in_train():
    splits = complete_splits({"train": examples_of([0, 1] * 50 + [2])}, seed=0)
    assert [e.label for e in splits["train"]].count(2) == 1


def test_the_order_never_drifts():
    order = stratified_order(examples_of([0, 1] * 4), seed=0)
    assert [example.id.removeprefix("d/train/") for example in order] == list("07652143")


@given(many_labels, st.data(), seeds)
def test_carve_divides_into_two_disjoint_parts_in_file_order(labels, data, seed):
    examples = examples_of(labels)
    count = data.draw(st.integers(0, len(examples)))
    rest, sample = carve(examples, count, seed)
    assert len(sample) == count
    assert sorted(rest + sample, key=examples.index) == examples
    assert rest == sorted(rest, key=examples.index)
    assert sample == sorted(sample, key=examples.index)
    assert carve(examples, count, seed) == (rest, sample)


@given(st.lists(st.integers(0, 2), min_size=3, max_size=200), seeds)
def test_a_single_split_is_cut_80_10_10(labels, seed):
    examples = examples_of(labels)
    splits = complete_splits({"train": examples}, seed)
    held_out = max(1, round(len(examples) / 10))
    assert len(splits["test"]) == len(splits["validation"]) == held_out
    everything = splits["train"] + splits["validation"] + splits["test"]
    assert Counter(everything) == Counter(examples)


def test_balanced_classes_stay_exactly_balanced():
    splits = complete_splits({"train": examples_of([0, 1] * 500)}, seed=3, held_out=120)
    counts = {name: Counter(e.label for e in examples) for name, examples in splits.items()}
    assert counts == {
        "train": {0: 380, 1: 380},
        "validation": {0: 60, 1: 60},
        "test": {0: 60, 1: 60},
    }


def test_splits_that_are_there_stay_as_they_are():
    given_splits = {
        name: examples_of([1, 0, 1], f"d/{name}") for name in ("train", "validation", "test")
    }
    assert complete_splits(given_splits, seed=0) == given_splits


def test_validation_is_carved_out_of_train_when_only_it_is_missing():
    train, test = examples_of([0, 1] * 20), examples_of([0, 1], "d/test")
    splits = complete_splits({"train": train, "test": test}, seed=0)
    assert splits["test"] == test
    assert len(splits["validation"]) == 4
    assert Counter(splits["train"] + splits["validation"]) == Counter(train)


def test_validation_serves_as_test_when_there_is_no_test():
    train, validation = examples_of([0, 1] * 20), examples_of([0, 1], "d/validation")
    splits = complete_splits({"train": train, "validation": validation}, seed=0)
    assert splits["test"] == validation
    assert len(splits["validation"]) == 4
    assert set(splits["validation"]) <= set(train)


def test_too_few_rows_to_hold_any_out():
    with pytest.raises(DataError, match="2 training rows are too few to split off 2"):
        complete_splits({"train": examples_of([0, 1])}, seed=0)


def test_no_training_row():
    with pytest.raises(DataError, match="No training row has both a text and a label"):
        complete_splits({"test": examples_of([0, 1])}, seed=0)


texts = st.lists(st.sampled_from(["a b", "a  b", " A, b\n", "c", "d", "e", "C!"]), max_size=12)


@given(texts, texts, texts)
def test_no_text_is_left_in_two_splits(train, validation, test):
    given_splits = {
        name: [Example(f"{name}/{i}", text, 0) for i, text in enumerate(split)]
        for name, split in (("train", train), ("validation", validation), ("test", test))
    }
    splits, dropped = drop_duplicates(given_splits)  # type: ignore[arg-type]
    words = {name: {normal_form(e.text) for e in split} for name, split in splits.items()}
    assert not words["train"] & words["validation"]
    assert not words["train"] & words["test"]
    assert not words["validation"] & words["test"]
    assert splits["test"] == given_splits["test"]
    assert words["train"] | words["validation"] | words["test"] == {
        normal_form(text) for text in train + validation + test
    }
    before = sum(map(len, given_splits.values()))
    assert sum(dropped.values()) == before - sum(map(len, splits.values()))


def test_train_gives_way_and_repeats_inside_a_split_stay():
    splits, dropped = drop_duplicates(
        {
            "train": [
                Example("t/0", "good  film", 1),
                Example("t/1", "x", 0),
                Example("t/2", "x", 0),
            ],
            "validation": [Example("v/0", "fine", 1), Example("v/1", "bad\tfilm", 0)],
            "test": [Example("e/0", "good film", 1), Example("e/1", "bad film", 0)],
        }
    )
    assert [example.id for example in splits["train"]] == ["t/1", "t/2"]
    assert [example.id for example in splits["validation"]] == ["v/0"]
    assert [example.id for example in splits["test"]] == ["e/0", "e/1"]
    assert dropped == {
        "train text also in validation or test": 1,
        "validation text also in test": 1,
    }


def test_nothing_dropped_leaves_no_zero_counts():
    assert drop_duplicates({"train": [], "validation": [], "test": []})[1] == {}


@given(many_labels, st.integers(1, 50), st.integers(1, 50), seeds)
def test_a_smaller_limit_is_a_prefix_of_a_larger_one(labels, first, second, seed):
    examples = examples_of(labels)
    small, large = sorted((first, second))
    kept = limit(examples, large, seed)
    assert len(kept) == min(large, len(examples))
    assert limit(examples, small, seed) == kept[:small]


def test_without_a_limit_everything_stays_in_file_order():
    examples = examples_of([1, 1, 0, 1])
    assert limit(examples, None, seed=0) == tuple(examples)


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        ("train validation test", "train validation test"),
        ("train dev", "train dev"),
        ("training val testing", "training val testing"),
        ("train validation dev", "train validation"),
        ("train unsupervised", "train"),
    ],
)
def test_split_names_are_mapped(available, chosen):
    found = pick_splits(available.split())
    assert found == dict(zip(("train", "validation", "test"), chosen.split(), strict=False))


def test_two_parties_that_skip_and_take_share_no_row():
    rows = [Example(f"d/{i}", f"text {i}", i % 2) for i in range(40)]
    attacker = limit(rows, 16, seed=3)
    defender = limit(rows, 16, seed=3, skip=16)
    assert len(defender) == 16
    assert not {e.id for e in attacker} & {e.id for e in defender}
    assert limit(rows, 32, seed=3) == attacker + defender
    assert len(limit(rows, None, seed=3, skip=16)) == 24
