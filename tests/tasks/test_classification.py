"""Predictions: in order, one per text, cut where they say; batches within their limit."""

import pytest

from tiny import POSITIVE
from w2sdefense.config import StudentConfig
from w2sdefense.tasks import classification
from w2sdefense.victim import Victim, load_victim

NAMES = ("negative", "positive")
TEXTS = [f"{'the film ' * (i % 4)}{word}" for i, word in enumerate(POSITIVE)]


@pytest.fixture(scope="module")
def victim(tiny_llama) -> Victim:
    return load_victim(StudentConfig(model=str(tiny_llama), max_length=8), NAMES, fresh_head_seed=0)


def test_the_order_of_the_texts_is_kept(victim):
    forward = victim.predict(TEXTS)
    backward = victim.predict(TEXTS[::-1])[::-1]
    probabilities = [answer.probabilities for answer in forward]
    assert len(set(probabilities)) == len(TEXTS), "alike answers would hide a mix-up"
    assert probabilities == [pytest.approx(answer.probabilities, abs=1e-6) for answer in backward]


def test_small_batches_give_the_same(victim, monkeypatch):
    whole = victim.predict(TEXTS)
    monkeypatch.setattr(classification, "BATCH_TOKENS", 1)
    for one, other in zip(whole, victim.predict(TEXTS), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-6)


def test_a_label_is_the_largest_probability(victim):
    for answer in victim.predict(TEXTS):
        assert sum(answer.probabilities) == pytest.approx(1)
        assert answer.probabilities[answer.answer] == max(answer.probabilities)


def test_progress_adds_up(victim):
    done: list[int] = []
    victim.predict(TEXTS, done.append)
    assert sum(done) == len(TEXTS)


def test_no_texts_give_no_answers(victim):
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
