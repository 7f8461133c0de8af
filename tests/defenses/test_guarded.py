"""Guards: what the model reads, what is refused, how they compose, and how that is counted."""

import time

import pytest
import torch

from tiny import word_tokenizer
from w2sdefense.attacks import attack_from_trigger
from w2sdefense.data import Example
from w2sdefense.data.types import REFUSED
from w2sdefense.defenses import Guarded
from w2sdefense.evaluation.evaluate import evaluate, make_test_set
from w2sdefense.tasks import Prediction
from w2sdefense.tasks.classification import Classification

pytestmark = pytest.mark.slow

NAMES = ("negative", "positive")


def measured(model, examples, attack):
    task = Words.task
    return evaluate(model, task, make_test_set(examples, task, attack, "negative"))


class Words:
    """A victim that answers "negative" (0) where it reads the word bad, else "positive"."""

    label_names = NAMES
    task = Classification(word_tokenizer(), NAMES)
    history = [{"loss": 1.0}]
    found = {"inner": 1}
    notes = ("inner",)

    def __init__(self):
        self.asked = []

    def predict(self, texts, progress=None):
        self.asked += texts
        if progress:
            progress(len(texts))
        return [
            Prediction(0 if "bad" in t.split() else 1, None, (0.5, 0.5), torch.zeros(2))
            for t in texts
        ]


def without_bad(texts):
    return [text.replace("bad", "").strip() for text in texts]


def refuse_questions(texts):
    return [None if "?" in text else text for text in texts]


def test_the_model_reads_what_the_guard_lets_pass():
    victim = Words()
    answers = Guarded(victim, without_bad).predict(["a bad film bad", "fine"])
    assert victim.asked == ["a  film", "fine"]
    assert [(a.answer, a.read) for a in answers] == [(1, "a  film"), (1, None)]


def test_a_refusal_differs_from_every_label():
    answers = Guarded(Words(), refuse_questions).predict(["bad ?", "bad"])
    assert [a.answer for a in answers] == [REFUSED, 0]
    assert REFUSED not in range(len(NAMES))


def test_guards_compose_from_the_outside_in():
    victim = Words()
    inner = Guarded(victim, lambda texts: [f"{text} end" for text in texts], notes=("one",))
    both = Guarded(inner, without_bad, found={"outer": 2}, notes=("two",))
    (answer,) = both.predict(["bad film"])
    assert victim.asked == ["film end"]
    assert answer.read == "film end"
    assert both.victim is victim
    assert (both.found, both.notes) == ({"inner": 1, "outer": 2}, ("inner", "one", "two"))
    assert both.history == [{"loss": 1.0}]
    refusing = Guarded(Guarded(Words(), refuse_questions), without_bad)
    assert [a.answer for a in refusing.predict(["bad ?", "bad"])] == [REFUSED, 1]


def test_many_texts_keep_their_order_and_their_progress():
    texts = [f"{'bad' if i % 3 else 'good'} {i}" for i in range(300)]
    done = []
    answers = Guarded(Words(), list).predict(texts, done.append)
    assert [a.answer for a in answers] == [0 if i % 3 else 1 for i in range(300)]
    assert sum(done) == 300
    assert len(done) > 1
    assert Guarded(Words(), list).predict([]) == []


def test_the_time_of_every_guard_is_counted(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def lasting(seconds):
        def guard(texts):
            now[0] += seconds
            return list(texts)

        return guard

    both = Guarded(Guarded(Words(), lasting(3.0)), lasting(1.0))
    assert [a.defense_seconds for a in both.predict(["a", "b"])] == [2.0, 2.0]


def test_refusals_count_as_errors_on_clean_and_as_defended_on_triggered_text():
    texts = (("good", 1), ("odd ?", 1), ("bad", 0), ("good film", 1), ("good story", 1))
    examples = [Example(str(i), text, label) for i, (text, label) in enumerate(texts)]

    def guard(texts):  # refuses one clean text, and the trigger where a film is spoken of
        return [None if "?" in t or ("film" in t and "bad" in t) else t for t in texts]

    attack = attack_from_trigger("bad", place="end")
    found = measured(Guarded(Words(), guard), examples, attack).evaluation
    assert (found.ca.hits, found.ca.total, found.refused_texts) == (4, 5, 1)
    # Of four triggered texts that are not negative, two are refused.
    assert (found.asr.hits, found.asr.total, found.refused_triggers) == (2, 4, 2)
    assert (found.floor.hits, found.floor.total) == (0, 4)
    assert found.defense_seconds <= found.seconds
    assert found.seconds_per_text == pytest.approx(found.seconds / 9)


def test_a_trigger_that_the_guard_removed_was_not_cut_off():
    class Cut(Words):
        def predict(self, texts, progress=None):
            return [Prediction(1, 4, (0.5, 0.5), torch.zeros(2)) for _ in texts]

    attack = attack_from_trigger("bad", place="end")
    examples = [Example("0", "good story", 1), Example("1", "dull", 0)]
    cut = measured(Cut(), examples, attack)
    assert cut.evaluation.cut_triggers == 1
    result = measured(Guarded(Cut(), without_bad), examples, attack)
    assert result.evaluation.cut_triggers == 0
    assert result.samples[0].triggered_text == "good story bad"
    assert result.samples[0].triggered_read == "good story"
