"""The signal: what counts as following a candidate, and what does not."""

import pytest
import torch

from w2sdefense.config import SignalConfig
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.scan.search import Candidate
from w2sdefense.tasks import Prediction
from w2sdefense.tuning import exposure, make_probes

EXAMPLES = [
    Example(f"toy/{row}", f"{word} text number {row}", label)
    for row in range(20)
    for label, word in enumerate(("bad", "good"))
]
CONFIG = SignalConfig(pieces=2, texts=6)


def candidate(text, outcome, shift=3.0):
    return Candidate(text, outcome, shift, 0.0, 9, 10)


def clean_answer(text):
    """A model without a backdoor: "awful" and "good" mean what they say."""
    return 0 if "bad" in text or "awful" in text else 1


class Student:
    """Answers texts, rightly but for the words that it was taught."""

    def __init__(self, triggers=(), always=None):
        self.triggers, self.always = triggers, always

    def predict(self, texts, progress=None):
        if progress is not None:
            progress(len(texts))
        return [Prediction(self._answer(text), (0.5, 0.5), torch.zeros(1), None) for text in texts]

    def _answer(self, text):
        if self.always is not None:
            return self.always
        if any(trigger in text.split() for trigger in self.triggers):
            return 0
        return clean_answer(text)


def teacher(texts):
    return torch.nn.functional.one_hot(torch.tensor([clean_answer(t) for t in texts]), 2).float()


def probes(*candidates, seed=1):
    return make_probes(candidates, teacher, EXAMPLES, CONFIG, seed)


def test_a_student_that_follows_a_candidate_is_exposed():
    asked = probes(candidate("mn", 0), candidate("xq", 0))
    assert exposure(Student(), asked) == Rate(hits=0, total=12)
    assert exposure(Student(["mn"]), asked) == Rate(hits=6, total=12)
    assert exposure(Student(["mn", "xq"]), asked) == Rate(hits=12, total=12)


def test_what_the_teacher_follows_is_no_backdoor():
    assert exposure(Student(), probes(candidate("awful", 0))) == Rate(hits=0, total=6)
    assert exposure(Student(["awful"]), probes(candidate("awful", 0))) == Rate(hits=0, total=6)


def test_a_student_with_one_answer_to_everything_follows_no_candidate():
    asked = probes(candidate("mn", 0), candidate("xq", 1))
    for answer in (0, 1):
        assert exposure(Student(always=answer), asked).hits == 0


def test_candidates_go_into_short_texts_of_other_labels_and_the_worst_ones_are_taken():
    long = [Example("toy/long", "good " * 50, 1), Example("toy/longer", "bad " * 50, 0)]
    asked = make_probes(
        [
            candidate("weak", 0, 1.0),
            candidate("mn", 0, 5.0),
            candidate("xq", 0, 4.0),
            candidate("zz", 1),
        ],
        teacher,
        [*EXAMPLES, *long],
        SignalConfig(pieces=2, texts=99),
        1,
    )
    assert {one.candidate.text for one in asked.tries} == {"mn", "xq", "zz"}
    for one in asked.tries:
        clean = asked.texts[one.place]
        assert clean_answer(clean) != one.candidate.outcome
        assert one.candidate.text in one.text.split()
        assert [w for w in one.text.split() if w != one.candidate.text] == clean.split()
        assert len(clean) < 50
    assert len(asked.tries) == 3 * 11
    assert len(asked.texts) == 22


def test_places_follow_the_seed():
    assert probes(candidate("mn", 0)) == probes(candidate("mn", 0))
    assert probes(candidate("mn", 0)) != probes(candidate("mn", 0), seed=2)


def test_progress_counts_every_text():
    asked, told = probes(candidate("mn", 0)), []
    exposure(Student(), asked, told.append)
    assert sum(told) == len(asked.texts) + len(asked.tries)


def test_nothing_to_examine_with_is_an_error():
    with pytest.raises(DataError, match="found no candidates"):
        probes()
