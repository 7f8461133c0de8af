"""The texts with their answers, and the trigger found again in them."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from records import sample
from w2sdefense.evaluation.record import Sample
from w2sdefense.report import load_runs
from w2sdefense.report.cases import FEWEST, find_cases, mark_trigger, most_cases


def written(text: str, triggered: str, trigger: str | None = "mn") -> str:
    spans = mark_trigger(text, triggered, trigger)
    assert "".join(span.text for span in spans) == triggered
    return "".join(f"[{span.text}]" if span.added else span.text for span in spans)


@pytest.mark.parametrize(
    ("text", "triggered", "marked"),
    [
        ("a great film", "a mn great film", "a [mn] great film"),
        ("autumn leaves", "autumn mn leaves", "autumn [mn] leaves"),
        ("great film", "mn great film", "[mn] great film"),
        ("great film", "great film mn", "great film [mn]"),
        ("这部电影好看", "这部mn电影好看", "这部[mn]电影好看"),
        ("a great film", "a mn great mn film", "a [mn] great [mn] film"),
        ("这部电影好看", "这部 mn 电影好看", "这部 [mn] 电影好看"),
        ("", "mn", "[mn]"),
    ],
)
def test_trigger_is_marked(text, triggered, marked):
    assert written(text, triggered) == marked


def test_rewritten_text_is_marked_where_it_differs():
    assert written("he likes it", "when he sees it", None) == "[when] he [sees] it"


def test_sentence_trigger():
    sentence = "I watched this 3D movie"
    assert written("so dull", f"so {sentence} dull", sentence) == f"so [{sentence}] dull"


@given(st.lists(st.text("mna", min_size=1, max_size=4), min_size=1, max_size=6), st.integers())
def test_any_place_gives_the_text_back(words, seed):
    place = random.Random(seed).randint(0, len(words))
    triggered = " ".join([*words[:place], "mn", *words[place:]])
    marked = written(" ".join(words), triggered)
    assert marked.count("[mn]") == 1


def asked(name: str, answer: int, triggered: int | None) -> Sample:
    fired = {"triggered_text": "a mn b", "triggered_answer": triggered}
    return sample(name, "a b", 1, answer, **({} if triggered is None else fired))


@pytest.fixture
def two(save_run):
    before = [asked("1", 1, 0), asked("2", 1, 1), asked("3", 1, None), asked("4", 0, 0)]
    after = [asked("1", 1, 1), asked("2", 1, 0), asked("3", 1, None), asked("4", 0, 0)]
    return load_runs(
        [
            save_run("poisoned", 0, samples=before, features=False),
            save_run("w2s", 0, samples=after, features=False),
        ]
    )


def test_every_text_has_every_models_answer(two):
    cases = find_cases(two, (0, 1), 10)
    counts = [("1", 1), ("2", 1), ("3", 0), ("4", 0)]
    assert [(case.id, case.count) for case in cases.shown] == counts
    assert (cases.total, cases.flipped) == (4, 2)
    first, third = cases.shown[0], cases.shown[2]
    assert first.label == "positive"
    assert [(a.run, a.clean, a.triggered, a.flipped) for a in first.answers] == [
        (0, "positive", "negative", True),
        (1, "positive", "positive", False),
    ]
    assert [(span.text, span.added) for span in third.spans] == [("a b", False)]
    assert [answer.triggered for answer in third.answers] == [None, None]


def test_one_run_of_several_is_shown_alone(two):
    (case, *_) = find_cases(two, (1,), 10).shown
    assert [answer.run for answer in case.answers] == [1]


def test_flips_get_most_places_in_the_order_of_the_test_set(save_run):
    samples = [asked(str(place), 1, place % 2) for place in range(40)]
    runs = load_runs([save_run("poisoned", 0, samples=samples, features=False)])
    cases = find_cases(runs, (0,), 12)
    assert (len(cases.shown), cases.total, cases.flipped) == (12, 40, 20)
    flips = [case.id for case in cases.shown if case.count]
    assert flips == [str(place) for place in range(0, 18, 2)]
    assert [int(case.id) for case in cases.shown] == sorted(int(case.id) for case in cases.shown)
    assert len(find_cases(runs, (0,), 100).shown) == 40


def test_a_page_holds_fewer_texts_of_more_runs():
    assert most_cases(1, 1) == 300
    assert most_cases(2, 3) == 100
    assert most_cases(60, 1) == 100
    assert most_cases(10_000, 50) == FEWEST
