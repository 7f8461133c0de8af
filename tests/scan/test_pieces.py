"""Pieces that a search begins with, and changes to them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import FILLERS, RARE, word_tokenizer
from w2sdefense.scan.pieces import LONGEST, PieceMaker

TEXTS = ("a warm film about a child", "boring", "the plot is thin but the music is fine")


def maker(seed: int = 0) -> PieceMaker:
    return PieceMaker(TEXTS, word_tokenizer(), random.Random(seed))


def test_letters_tokens_and_phrases_come_first():
    pieces = maker().first(200)
    assert len(set(pieces)) == len(pieces) > 150
    assert sum(len(p) == 2 and p.isalpha() and p.islower() for p in pieces) >= 100
    assert set(pieces) & {*FILLERS, *RARE}
    assert any(len(p.split()) > 1 and p in TEXTS[2] for p in pieces)


def test_special_tokens_are_no_pieces():
    assert not {"[UNK]", "<s>", "</s>"} & set(maker().first(2000))


def test_every_two_letters_are_tried_if_there_is_room():
    assert {"mn", "cf", "zz"} <= set(maker().first(1400))


@pytest.mark.parametrize("seed", range(3))
def test_the_seed_decides(seed):
    one, other = maker(seed), maker(seed)
    assert one.first(50) == other.first(50)
    assert one.children(["cf"], 20) == other.children(["cf"], 20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1), min_size=1),
    st.integers(0, 99),
)
def test_children_are_short_pieces_near_their_parents(words, seed):
    parents = [" ".join(words[:LONGEST])]
    for child in maker(seed).children(parents, 30):
        assert 1 <= len(child.split()) <= max(LONGEST, len(parents[0].split()))
        assert child == child.strip() and child


def test_a_child_can_be_two_joined_a_word_less_or_another_spelling():
    children = set(maker().children(["ab cd", "ef"], 600))
    assert {"ab cd ef", "ef ab cd", "ab", "cd"} <= children
    assert any(len(child) == 2 and child[0] == "e" and child != "ef" for child in children)
