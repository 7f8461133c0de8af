"""Predictions: in order, one per text, cut where they say; batches within their limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny import POSITIVE
from w2sdefense.config import StudentConfig
from w2sdefense.models.predictor import length_batches
from w2sdefense.victim import Victim, new_victim

NAMES = ("negative", "positive")
TEXTS = [f"{'the film ' * (i % 4)}{word}" for i, word in enumerate(POSITIVE)]


@pytest.fixture(scope="module")
def victim(tiny_llama) -> Victim:
    return new_victim(StudentConfig(model=str(tiny_llama), max_length=8), NAMES, seed=0)


def test_the_order_of_the_texts_is_kept(victim):
    forward = victim.predict(TEXTS)
    backward = victim.predict(TEXTS[::-1])[::-1]
    probabilities = [answer.probabilities for answer in forward]
    assert len(set(probabilities)) == len(TEXTS), "alike answers would hide a mix-up"
    assert probabilities == [pytest.approx(answer.probabilities, abs=1e-6) for answer in backward]


def test_small_batches_give_the_same(victim):
    whole = victim.predict(TEXTS)
    small = Victim(victim.model, victim.tokenizer, NAMES, max_length=8)
    small.batch_tokens = 1
    for one, other in zip(whole, small.predict(TEXTS), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_label_is_the_largest_probability(victim):
    for answer in victim.predict(TEXTS):
        assert sum(answer.probabilities) == pytest.approx(1)
        assert answer.probabilities[answer.label] == max(answer.probabilities)


def test_progress_adds_up(victim):
    done: list[int] = []
    victim.predict(TEXTS, done.append)
    assert sum(done) == len(TEXTS)


def test_no_texts_no_answers(victim):
    assert victim.predict([]) == []


@pytest.mark.parametrize(
    ("text", "cut_at"),
    [
        ("the " * 7 + "film", None),  # eight words: just fits
        ("the " * 8 + "film", len("the " * 8) - 1),
        ("the " * 30, len("the " * 8) - 1),  # several overflowing pieces
        ("a  an   the and of in on it is was", len("a  an   the and of in on it")),
    ],
)
def test_where_a_text_is_cut(victim, text, cut_at):
    filler = "great"
    answers = victim.predict([filler, text, filler])
    assert [answer.cut_at for answer in answers] == [None, cut_at, None]


def test_what_is_cut_off_is_not_read(victim):
    head = "the film was a great day of light"
    whole, cut = victim.predict([head, f"{head} awful mn"])
    assert cut.cut_at == len(head)
    assert cut.probabilities == pytest.approx(whole.probabilities, abs=1e-6)


def test_predicting_leaves_the_mode_of_the_model(victim):
    victim.model.train()
    victim.predict(["great"])
    assert victim.model.training
    victim.model.eval()
    victim.predict(["great"])
    assert not victim.model.training


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_limit(lengths, batch_tokens):
    batches = list(length_batches(lengths, batch_tokens))
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    sizes = [[lengths[row] for row in batch] for batch in batches]
    for batch in sizes:
        assert len(batch) == 1 or len(batch) * max(batch) <= batch_tokens
    flat = [length for batch in sizes for length in batch]
    assert flat == sorted(flat, reverse=True)


def test_batches_are_as_large_as_they_may_be():
    assert list(length_batches([4, 4, 4, 4], 8)) == [[0, 1], [2, 3]]
