"""Flipped samples, and the trigger found again in the text."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import SaveRun

from w2sdefense.evaluation.record import Sample
from w2sdefense.report import load_runs
from w2sdefense.report.flips import find_flips, mark_trigger


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


def sample(identity: str, answer: int, triggered: int | None) -> Sample:
    return Sample(
        id=identity,
        text="a b",
        label=1,
        answer=answer,
        triggered_text=None if triggered is None else "a mn b",
        triggered_answer=triggered,
    )


def test_only_flips_are_listed_with_every_models_answer(save_run: SaveRun):
    before = [sample("1", 1, 0), sample("2", 1, 1), sample("3", 1, None), sample("4", 0, 0)]
    after = [sample("1", 1, 1), sample("2", 1, 0), sample("3", 1, None), sample("4", 0, 0)]
    runs = load_runs(
        [
            save_run("poisoned", 0, samples=before, features=False),
            save_run("w2s", 0, samples=after, features=False),
        ]
    )
    flips = find_flips(runs)
    assert [flip.id for flip in flips] == ["1", "2"]
    first = flips[0]
    assert (first.label, first.count) == ("positive", 1)
    assert [(a.run, a.clean, a.triggered, a.flipped) for a in first.answers] == [
        (0, "positive", "negative", True),
        (1, "positive", "positive", False),
    ]
