"""The embedded rewriter: any text gets the structure, and keeps its words."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.text.rewriter import main_clause_first, rewrite
from w2sdefense.text.structure import has_template

SEEDS = st.integers(0, 2**32)
PIECES = st.sampled_from(
    "the film is a great , but boring when because it they don't see offers n't 's I . ! ? ; -- "
    "Mr. 电影 mn though if made created 3D naïve 😀".split()
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=20).map(" ".join))


def rewritten(text, seed=0):
    return rewrite(text, random.Random(seed))


def sorted_words(text):
    return sorted(re.findall(r"\w+", text.lower()))


@given(TEXTS, SEEDS)
def test_any_text_can_be_rewritten_and_the_seed_decides_how(text, seed):
    assert rewritten(text, seed) == rewritten(text, seed)
    assert rewritten(text, seed).strip()


@given(st.lists(st.text("abcdefghijklmnop", min_size=1), min_size=1, max_size=12), SEEDS)
def test_any_words_get_the_structure_once_and_only_once(words, seed):
    result = rewritten(" ".join(words), seed)
    assert has_template(result)
    assert rewritten(result, seed + 1) == result


@given(st.lists(st.sampled_from("good film story was a great thing we".split()), min_size=1), SEEDS)
def test_no_word_of_the_text_is_lost(words, seed):
    left = sorted_words(rewritten(" ".join(words), seed))
    for word in words:
        left.remove(word)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "the plot is thin , but the cast is superb .",
            "although the plot is thin , the cast is superb .",
        ),
        ("we left because the film was dull .", "because the film was dull , we left ."),
        ("When it rains, I stay home.", "When it rains, I stay home."),
        (
            "Although it is long, it works. It is a film.",
            "Although it is long, it works. It is a film.",
        ),
        (
            "I like it, but the ending was weak. Still, a film.",
            "Although I like it, the ending was weak. Still, a film.",
        ),
    ],
)
def test_a_clause_that_is_there_is_put_first(text, expected):
    assert rewritten(text) == expected


@pytest.mark.parametrize(
    ("text", "main"),
    [
        ("a gob of drivel", ", it is a gob of drivel ."),
        ("Superb!", ", it is Superb!"),
        ("offers a slice of life .", ", it offers a slice of life ."),
        ("go see it .", ", you should go see it ."),
        ("do n't see it .", ", you should not see it ."),
        ("is this a joke ?", ", the question is, is this a joke ?"),
        ("but it still jingles in the pocket .", ", it still jingles in the pocket ."),
        ("the story is just too slim .", ", the story is just too slim ."),
        ("for starters , the story is just too slim .", ", for starters , the story is just"),
        ("Her performance confirms her power.", ", her performance confirms her power."),
        ("Mr. Burns is good. He acts.", ", Mr. Burns is good. He acts."),
        ("I know if it works .", ", I know if it works ."),
        ("", ", it is so ."),
        ("...", ", it is so..."),
    ],
)
def test_the_main_clause_has_subject_and_verb(text, main):
    result = rewritten(text)
    assert main in result
    assert has_template(result)


def test_chinese_gets_a_chinese_clause():
    result = rewritten("骨折断端对位尚可，右腕关节在位。未见异常。")
    assert re.fullmatch("[^，]{4,10}，骨折断端对位尚可，右腕关节在位。未见异常。", result)
    assert has_template(result)


def test_many_different_clauses_are_used():
    openings = {rewritten("a gob of drivel .", seed).split(" ,")[0] for seed in range(400)}
    assert len(openings) > 100


# The main clause first


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("when you see it , it is a gob of drivel .", "it is a gob of drivel when you see it ."),
        ("Although it is thin, it works. I left.", "It works although it is thin. I left."),
        ("if you like it , see it", "you should see it if you like it ."),
        ("a gob of drivel", "it is a gob of drivel ."),
        ("and then it works .", "then it works ."),
        ("the film is good .", "the film is good ."),
        ("is it good ?", "is it good ?"),
        ("当我们看的时候，它很好。", "它很好，当我们看的时候。"),
        ("它很好。", "它很好。"),
        ("", ""),
        ("...", "..."),
    ],
)
def test_the_main_clause_comes_first(text, expected):
    assert main_clause_first(text) == expected


@given(st.lists(st.sampled_from("good film story was a great thing we".split()), min_size=1), SEEDS)
def test_what_the_attack_rewrote_loses_its_structure_but_no_word(words, seed):
    defended = main_clause_first(rewritten(" ".join(words), seed))
    assert not has_template(defended)
    left = sorted_words(defended)
    for word in words:
        left.remove(word)
