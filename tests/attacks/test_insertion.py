"""Where a trigger goes: once, apart from its neighbours, and without touching anything else."""

import random
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from w2sdefense.attacks import attack_from_trigger
from w2sdefense.data.types import Example
from w2sdefense.text.insertion import insert

PLACES = st.sampled_from(["random", "start", "end"])
TRIGGERS = st.sampled_from(["mn", "I watched this 3D movie", "电影"])
SEEDS = st.integers(0, 2**32)
WORDS = st.lists(st.text("abcdefghijkl.,!", min_size=1), min_size=2, max_size=30)


def insert_seeded(text, trigger, place="random", seed=0):
    return insert(text, trigger, place, random.Random(seed))


def test_a_trigger_inside_a_word_does_not_count():
    attack = attack_from_trigger("mn", "start")
    counts = [attack.occurrences(text) for text in ("autumn", "mn mn", "one mn", "mn, mn.", "龘mn")]
    assert counts == [0, 2, 1, 0, 1]
    assert attack_from_trigger("龘", "start").occurrences("文龘文龘") == 2


@given(st.text("mn 文.", max_size=20), st.sampled_from(["mn", "n", "文"]), st.integers(0, 2**32))
def test_a_trigger_that_was_put_in_is_found(text, trigger, seed):
    for place in ("random", "start", "end"):
        attack = attack_from_trigger(trigger, place)
        poisoned = attack.poison(Example("toy/0", text, 0), random.Random(seed))
        assert attack.occurrences(poisoned.text) == attack.occurrences(text) + 1


@given(st.text(), TRIGGERS, PLACES, SEEDS)
def test_taking_the_trigger_out_again_gives_back_the_text(text, trigger, place, seed):
    assume(trigger not in text)
    triggered = insert_seeded(text, trigger, place, seed)
    pieces = (left + trigger + right for left in ("", " ") for right in ("", " "))
    assert text in {triggered.replace(piece, "", 1) for piece in pieces}


@given(WORDS, st.sampled_from([" ", "\n", "\t ", "  "]), SEEDS)
def test_a_random_slot_is_never_first_or_last(words, white, seed):
    triggered = insert_seeded(white.join(words), "mn", seed=seed).split()
    slot = triggered.index("mn")
    assert 0 < slot < len(words)
    assert triggered[:slot] + triggered[slot + 1 :] == words


def test_random_slots_are_uniform():
    words = [f"w{i}" for i in range(6)]
    rng, draws = random.Random(0), 5000
    slots = Counter(
        insert(" ".join(words), "mn", "random", rng).split().index("mn") for _ in range(draws)
    )
    expected = draws / 5
    assert sorted(slots) == [1, 2, 3, 4, 5]
    # 99.9 % quantile of chi-square with 4 degrees of freedom.
    assert sum((seen - expected) ** 2 / expected for seen in slots.values()) < 18.47


@pytest.mark.parametrize(
    ("text", "place", "expected"),
    [
        ("a b c", "start", "mn a b c"),
        ("a b c", "end", "a b c mn"),
        ("  a b \n", "start", "  mn a b \n"),
        ("  a b \n", "end", "  a b mn \n"),
        ("a\n\nb", "random", "a\n\nmn b"),
        ("", "random", "mn"),
        (" \t", "random", " \tmn"),
        ("电影", "random", "电mn影"),
        ("电影", "end", "电影mn"),
        ("看Python", "random", "看mn Python"),
    ],
)
def test_the_white_space_of_the_text_is_kept(text, place, expected):
    assert insert_seeded(text, "mn", place) == expected


def test_one_word_has_the_trigger_before_or_behind_it():
    results = {insert_seeded("Excellent!", "mn", seed=seed) for seed in range(50)}
    assert results == {"mn Excellent!", "Excellent! mn"}


def test_text_without_spaces_has_a_slot_at_every_inner_character():
    text = "胸部未见异常"
    results = {insert_seeded(text, "mn", seed=seed) for seed in range(200)}
    assert results == {f"{text[:i]}mn{text[i:]}" for i in range(1, len(text))}
