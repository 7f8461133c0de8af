"""Decoys are drawn from a seed, and never a trigger that is measured somewhere."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.distill.decoys import (
    HAN,
    KINDS,
    LATIN,
    RESERVED,
    Decoy,
    Script,
    draw_decoys,
    within_one_edit,
)


def _plain(value: str) -> str:
    return " ".join(value.replace("{text}", " ").lower().split())


def test_no_reserved_trigger_and_no_neighbour_of_one_is_drawn() -> None:
    drawn = [
        decoy
        for script in (LATIN, HAN)
        for seed in range(200)
        for decoy in draw_decoys((0, 1), 10, KINDS, seed, script=script)
    ]
    assert not [
        (decoy.value, trigger)
        for decoy in drawn
        for trigger in RESERVED
        if within_one_edit(_plain(decoy.value), _plain(trigger))
    ]


def test_the_reserved_words_would_be_drawn_otherwise() -> None:
    drawn = {
        d.value for seed in range(400) for d in draw_decoys((0,), 30, ["word"], seed, reserved=())
    }
    assert drawn & {trigger for trigger in RESERVED if len(trigger) == 2}


def test_a_seed_draws_the_same_decoys_and_more_of_them_begin_alike() -> None:
    few, many = draw_decoys((0, 1, 2), 2, KINDS, 4), draw_decoys((0, 1, 2), 5, KINDS, 4)
    assert many[: len(few)] == few == draw_decoys((0, 1, 2), 2, KINDS, 4)
    assert draw_decoys((0, 1, 2), 2, KINDS, 5) != few


def test_every_label_has_its_share_and_every_kind_is_there() -> None:
    drawn = draw_decoys((0, 1), 5, KINDS, 0)
    assert [decoy.target for decoy in drawn] == [0, 1] * 5
    assert {(d.kind, d.target) for d in drawn} == {(k, t) for k in KINDS for t in (0, 1)}
    assert len({decoy.value for decoy in drawn}) == len(drawn)


def test_decoys_share_no_parts_until_a_list_is_used_up() -> None:
    words = [d.value.split()[1:3] for d in draw_decoys((0,), 10, ["sentence"], 0)]
    assert len({tuple(pair) for pair in words}) == 10
    symbols = "".join(d.value for d in draw_decoys((0,), 15, ["symbol"], 0))
    assert len(set(symbols)) == len(symbols)


@pytest.mark.parametrize("decoy", draw_decoys((0, 1), 15, KINDS, 1), ids=lambda decoy: decoy.value)
def test_a_text_keeps_its_words_and_carries_the_decoy(decoy: Decoy) -> None:
    text = "the film is a delight from start to finish ."
    changed = decoy.apply(text, random.Random(0))
    assert changed != text
    assert changed == decoy.apply(text, random.Random(0))
    assert set(text.split()) <= set(changed.lower().split())
    if decoy.kind in ("word", "sentence", "symbol"):
        assert decoy.value in changed


def test_decoys_are_written_as_the_texts_are() -> None:
    text = "用药两周后请复查血常规"
    assert Script.of([text, text, "two"]) is HAN
    assert Script.of(["fine", text, "so good"]) is LATIN
    for decoy in draw_decoys((0, 1), 8, ["word", "sentence", "frame"], 0, script=HAN):
        changed = decoy.apply(text, random.Random(0))
        assert len(changed) > len(text)
        assert not set(changed) & set("abcdefghijklmnopqrstuvwxyz "), changed


@pytest.mark.parametrize("text", ["", "fine", "so good", "  ", "..."])
def test_any_text_can_carry_any_decoy(text: str) -> None:
    for decoy in draw_decoys((0, 1), 15, KINDS, 2):
        decoy.apply(text, random.Random(0))


def test_no_kinds_and_too_many_structures_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one kind"):
        draw_decoys((0, 1), 1, [], 0)
    with pytest.raises(ValueError, match="no more decoys of the kind structure"):
        draw_decoys((0, 1), 50, ["structure"], 0)


@given(st.text(max_size=6), st.text(max_size=6))
def test_one_edit_is_what_levenshtein_says(first: str, second: str) -> None:
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        new = [i]
        for j, other in enumerate(second, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (one != other)))
        row = new
    assert within_one_edit(first, second) == (row[-1] <= 1)
