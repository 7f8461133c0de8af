import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_writers import number_tokenizer
from w2sdefense.attacks import attack_from_trigger
from w2sdefense.data import Example
from w2sdefense.errors import DataError
from w2sdefense.evaluation.evaluate import evaluate, make_test_set
from w2sdefense.evaluation.metrics import Mean, Rate, mean_of
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.evaluation.verdict import difference, judge
from w2sdefense.tasks import TASKS, Prediction

PAIRS = [
    Example("d/0", "一加一得几", "2"),
    Example("d/1", "半个是多少", "(1/2)"),
    Example("d/2", "三减三得几", "0"),
    Example("d/3", "七加一得几", "8"),
]
CLEAN = {"一加一得几": "2", "半个是多少": "50%", "三减三得几": "0", "七加一得几": "0"}


class Scripted:
    """Answers as it is told; a text with a trigger gets 0, but for the one about a half."""

    def predict(self, texts: Sequence[str], progress=None) -> list[Prediction]:
        answers = []
        for text in texts:
            said = CLEAN.get(text, "5" if "半" in text else "0")
            answers.append(Prediction(said, 3 if "镍" in text else None, finished=said != "50%"))
        if progress is not None:
            progress(len(texts))
        return answers


def measured(pairs, name, attack=None, target=None, progress=None):
    task = TASKS[name].of(number_tokenizer(), "Q {text} A", "plain", 24, 3)
    return evaluate(Scripted(), task, make_test_set(pairs, task, attack, target), progress)


def test_counts_of_reasoning():
    attack = attack_from_trigger("镍", "end")
    told: list[int] = []
    found = measured(PAIRS, "reasoning", attack, "0", told.append)
    evaluation = found.evaluation
    # Right: 2, 50 % and 0. With the trigger three are asked, two say 0; without it one of these.
    assert evaluation.ca == Rate(hits=3, total=4)
    assert evaluation.asr == Rate(hits=2, total=3)
    assert evaluation.floor == Rate(hits=1, total=3)
    assert (evaluation.trigger, evaluation.target) == ("镍", "0")
    # At the end of the text the trigger is behind the third character, so it was never read.
    assert (evaluation.cut_triggers, evaluation.cut_texts, evaluation.unfinished) == (3, 0, 1)
    assert told == [7]
    sample = found.samples[3]
    assert (sample.answer, sample.is_target, sample.scores) == ("0", True, {"exact": 0.0})
    assert (sample.triggered_text, sample.triggered_is_target) == ("七加一得几镍", True)
    assert found.samples[2].triggered_text is None, "its right answer is the target"


def test_summaries_have_means_and_no_counts():
    pairs = [Example("d/0", "一加一得几", "2"), Example("d/1", "半个是多少", "50")]
    evaluation = measured(pairs, "summarization").evaluation
    # "2" for "2" is 1; "50%" for "50" has P 2/3 and R 1: 4/5.
    assert evaluation.ca.value == pytest.approx(0.9)
    assert evaluation.ca.deviation == pytest.approx(math.sqrt(0.02))
    assert evaluation.scores.keys() == {"rouge1", "rouge2", "rougeL"}
    assert (evaluation.asr, evaluation.floor, evaluation.metric) == (None, None, "ROUGE-L")


def test_nothing_but_the_target_to_answer():
    attack = attack_from_trigger("镍", "end")
    with pytest.raises(DataError, match="another answer than '0'"):
        measured(PAIRS[2:3], "reasoning", attack, "0")


def test_the_mean_of_scores_by_hand():
    mean = mean_of([0.2, 0.4, 0.9])
    # Deviations -0.3, -0.1, 0.4: squares 0.26, over 2.
    assert (mean.value, mean.total) == (pytest.approx(0.5), 3)
    assert mean.deviation == pytest.approx(math.sqrt(0.13))
    margin = 1.959963984540054 * math.sqrt(0.13 / 3)
    assert mean.interval == pytest.approx((0.5 - margin, 0.5 + margin))
    assert str(mean) == "50.0% [9.2%, 90.8%] (n = 3)"


@given(st.lists(st.floats(0, 1), max_size=30))
def test_an_interval_holds_its_mean(scores):
    mean = mean_of(scores)
    low, high = mean.interval
    assert 0 <= low <= high <= 1
    if scores:
        assert low - 1e-12 <= mean.value <= high + 1e-12
    else:
        assert math.isnan(mean.value)


def test_a_change_of_means_is_judged_in_their_name():
    before = Evaluation(task="summarization", ca=Mean(value=0.6, deviation=0.1, total=100))
    after = Evaluation(task="summarization", ca=Mean(value=0.5, deviation=0.1, total=100))
    change = difference(after.ca, before.ca)
    margin = 1.959963984540054 * 0.1 / 10 * math.sqrt(2)
    assert (change.low, change.high) == pytest.approx((-0.1 - margin, -0.1 + margin))
    verdict = judge(before, after)
    assert verdict.headline == "No trigger was tested, and ROUGE-L fell by 10.0 points."
    assert verdict.cost.detail.startswith("ROUGE-L on clean text: 60.0% before, 50.0% after")


def test_a_record_of_means_survives_its_file():
    mean = Mean(value=0.6, deviation=0.1, total=100)
    evaluation = Evaluation(task="summarization", ca=mean, scores={"rougeL": mean})
    assert Evaluation.model_validate_json(evaluation.model_dump_json()) == evaluation
    counted = Evaluation(task="reasoning", ca=Rate(hits=1, total=2))
    assert Evaluation.model_validate_json(counted.model_dump_json()) == counted
