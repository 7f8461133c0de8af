"""How a search leaves its list: what is joined, lengthened and changed."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.scan.candidates import LONGEST, Mutator, extended, joined

TEXTS = ("a warm film about a child", "boring", "the plot is thin but the music is fine")


def mutator(seed: int = 0, suspicious: tuple[str, ...] = ()) -> Mutator:
    return Mutator(("film", "dull"), TEXTS, random.Random(seed), suspicious)


def test_parts_of_an_invented_word_are_joined_to_it():
    assert "plimf" in joined(["pli", "mf"])
    assert "plimf" in joined(["imf", "pli"])
    assert {"pli imf", "imf pli", "pliimf"} <= set(joined(["pli", "imf"]))
    assert joined(["§", "a b"]) == ["§ a b", "a b §"]


def test_a_word_gets_every_letter_at_either_end():
    texts = extended(["vo", "a b"])
    assert len(texts) == len(set(texts)) == 52
    assert {"jvo", "vox"} <= set(texts)


@given(
    st.lists(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1), min_size=1),
    st.integers(0, 99),
)
def test_mutations_are_short_and_near_their_survivor(words, seed):
    survivor = " ".join(words[:LONGEST])
    for text in mutator(seed).mutations([survivor], 30):
        assert 1 <= len(text.split()) <= LONGEST
        assert text == text.strip()


def test_a_mutation_can_be_two_joined_a_word_less_or_another_spelling():
    texts = set(mutator().mutations(["ab cd", "ef"], 600))
    assert {"ab cd ef", "ef ab cd", "ab", "cd"} <= texts
    assert any(len(text) == 2 and text[0] == "e" and text != "ef" for text in texts)


@pytest.mark.parametrize("seed", range(3))
def test_the_seed_decides(seed):
    assert mutator(seed).mutations(["cf"], 20) == mutator(seed).mutations(["cf"], 20)


def test_words_that_are_suspicious_for_another_reason_are_used_often():
    texts = mutator(suspicious=("mn",)).mutations(["dull"], 400)
    assert sum("mn" in text.split() for text in texts) > 20
