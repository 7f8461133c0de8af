from dataclasses import replace

import pytest

from w2sdefense.data import Dataset, Example, align_labels, labels_of
from w2sdefense.data.checks import check_usable, label_notes
from w2sdefense.errors import DataError


def dataset_with(*names: str) -> Dataset:
    examples = tuple(Example(f"d/{i}", f"text {i}", i) for i in range(len(names)))
    return Dataset("d", names, examples, examples[:1], examples[::-1], {"empty text": 2})


@pytest.mark.parametrize(
    ("names", "model", "positions", "result"),
    [
        (("bad", "good"), ("bad", "good"), [0, 1], ("bad", "good")),
        (("bad", "good"), ("good", "bad"), [1, 0], ("good", "bad")),
        (("bad", "good"), ("GOOD", "BAD"), [1, 0], ("GOOD", "BAD")),
        (("bad", "good"), ("good", "so-so", "bad"), [2, 0], ("good", "so-so", "bad")),
        (("US", "us"), ("us", "US"), [1, 0], ("us", "US")),
        (("0", "1"), ("negative", "positive"), [0, 1], ("negative", "positive")),
        (("0", "1"), ("1", "0"), [1, 0], ("1", "0")),
        (("bad", "good"), ("LABEL_0", "LABEL_1"), [0, 1], ("bad", "good")),
        (("0", "1"), ("LABEL_0", "LABEL_1", "LABEL_2"), [0, 1], ("LABEL_0", "LABEL_1", "LABEL_2")),
    ],
)
def test_labels_take_the_places_they_have_in_the_model(names, model, positions, result):
    dataset = dataset_with(*names)
    aligned = align_labels(dataset, model)
    assert aligned.label_names == result
    assert labels_of(aligned.train) == positions
    assert labels_of(aligned.validation) == positions[:1]
    assert labels_of(aligned.test) == positions[::-1]
    assert [e.id for e in aligned.train] == [e.id for e in dataset.train]
    assert aligned.dropped == dataset.dropped


@pytest.mark.parametrize(
    ("names", "model", "missing"),
    [
        (("bad", "good"), ("world", "sports"), "bad, good"),
        (("bad", "good", "so-so"), ("good", "bad"), "so-so"),
        (("0", "1", "2"), ("negative", "positive"), "2"),
        (("bad", "good"), ("LABEL_0", "LABEL_1", "LABEL_2"), "bad, good"),
        (("1", "2"), ("negative", "positive"), "1, 2"),
    ],
)
def test_labels_that_the_model_lacks_are_named(names, model, missing):
    message = f"d has labels that the model does not have: {missing}. The model has: {model[0]}"
    with pytest.raises(DataError, match=message):
        align_labels(dataset_with(*names), model)


def test_a_blank_at_the_end_of_a_label_is_seen():
    with pytest.raises(DataError, match="does not have: good. The model has: 'good ', bad."):
        align_labels(dataset_with("bad", "good"), ("good ", "bad"))


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_an_empty_split_is_named(split):
    dataset = replace(dataset_with("bad", "good"), **{split: ()})
    with pytest.raises(DataError, match=f"the {split} split is empty"):
        check_usable(dataset)


def test_one_label_is_nothing_to_learn():
    dataset = replace(dataset_with("bad", "good"), train=(Example("d/0", "a", 1),))
    with pytest.raises(DataError, match="all training rows have the label good"):
        check_usable(dataset)


@pytest.mark.parametrize("other", ["Bad", "ba\u200bd", "b\uff41d"])
def test_labels_that_differ_in_spelling_only_are_noted(other):
    (note,) = label_notes(replace(dataset_with("bad", other), validation=(), test=()))[:1]
    assert note == f"the labels bad, {other} differ in spelling only and count as 2 labels"
    assert "spelling" not in str(label_notes(dataset_with("1", "-1")))


def test_a_label_that_a_split_lacks_is_noted():
    dataset = dataset_with("bad", "good")
    assert label_notes(dataset) == ("no validation text has the label good",)
    assert label_notes(replace(dataset, validation=dataset.train)) == ()
    assert label_notes(replace(dataset, label_names=())) == ()
