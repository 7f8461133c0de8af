"""Decoys are drawn from a seed and the clean texts, and never a trigger that is measured."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.distill.decoys import (
    KINDS,
    PASSAGE_WORDS,
    RESERVED,
    Decoy,
    draw_decoys,
    within_one_edit,
)
from w2sdefense.errors import DataError
from w2sdefense.text.insertion import count_insertions

_WORDS = [f"{a}{b}{c}" for a in "bdfgklm" for b in "aeiou" for c in ("rt", "lves", "ndy", "sk")]
TEXTS = [" ".join(random.Random(i).sample(_WORDS, 12)) for i in range(60)]
HAN_TEXTS = ["用药两周后请复查血常规", "胸廓对称双肺纹理清晰", "心影大小形态未见异常"]


def _plain(value: str) -> str:
    return " ".join(value.replace("{text}", " ").lower().split())


def test_no_reserved_trigger_no_neighbour_of_one_and_no_passage_with_one_is_drawn() -> None:
    # Texts of reserved triggers: what is not refused is drawn at once.
    triggers = sorted(t for t in RESERVED if t.isascii())
    tempting = [f"we said {a} and then it was over" for a in triggers]
    for texts in (tempting, [*TEXTS, *triggers], HAN_TEXTS):
        for seed in range(20):
            for decoy in draw_decoys((0, 1), 2, KINDS, seed, texts):
                value = _plain(decoy.value)
                for trigger in map(_plain, RESERVED):
                    assert not within_one_edit(value, trigger)
                    assert not count_insertions(value, trigger)


def test_reserved_words_and_passages_would_be_drawn_otherwise() -> None:
    words = {
        decoy.value
        for seed in range(80)
        for decoy in draw_decoys((0,), 30, ["word"], seed, TEXTS, reserved=())
    }
    assert words & {trigger for trigger in RESERVED if len(trigger) == 2}
    texts = ["so I watched this 3D movie twice today"] * 3
    free = [draw_decoys((0,), 1, ["passage"], seed, texts, reserved=()) for seed in range(30)]
    assert any("I watched this 3D movie" in decoys[0].value for decoys in free)


def test_a_seed_draws_the_same_decoys_and_more_of_them_begin_alike() -> None:
    few, many = (draw_decoys((0, 1, 2), count, KINDS, 4, TEXTS) for count in (2, 5))
    assert many[: len(few)] == few == draw_decoys((0, 1, 2), 2, KINDS, 4, TEXTS)
    assert draw_decoys((0, 1, 2), 2, KINDS, 5, TEXTS) != few


def test_every_label_has_its_share_and_every_kind_is_there() -> None:
    drawn = draw_decoys((0, 1), 6, KINDS, 0, TEXTS)
    assert [decoy.target for decoy in drawn] == [0, 1] * 6
    assert {(d.kind, d.target) for d in drawn} == {(k, t) for k in KINDS for t in (0, 1)}
    assert len({decoy.value for decoy in drawn}) == len(drawn)


def test_passages_are_words_in_a_row_of_different_texts() -> None:
    sources = []
    for decoy in draw_decoys((0,), len(TEXTS), ["passage"], 0, TEXTS):
        assert PASSAGE_WORDS[0] <= len(decoy.value.split()) <= PASSAGE_WORDS[1]
        sources += [text for text in TEXTS if decoy.value in text]
    assert sorted(sources) == sorted(TEXTS)


@pytest.mark.parametrize("decoy", draw_decoys((0, 1), 6, KINDS, 1, TEXTS), ids=lambda d: d.value)
def test_a_text_keeps_its_words_and_carries_the_decoy(decoy: Decoy) -> None:
    text = "the film is a delight from start to finish ."
    changed = decoy.apply(text, random.Random(0))
    assert changed == decoy.apply(text, random.Random(0)) != text
    assert set(text.split()) <= set(changed.split())
    before, _, behind = decoy.value.partition("{text}")
    assert before.strip() in changed
    if decoy.kind == "frame":
        assert changed == before + text + behind
        assert before.strip()
        assert behind.strip()


def test_decoys_are_written_as_the_texts_are() -> None:
    for decoy in draw_decoys((0, 1), 6, KINDS, 0, HAN_TEXTS):
        changed = decoy.apply("请结合临床", random.Random(0))
        assert len(changed) > len("请结合临床")
        assert not set(changed) & set("abcdefghijklmnopqrstuvwxyz "), changed


@pytest.mark.parametrize("text", ["", "fine", "so good", "  ", "..."])
def test_any_text_can_carry_any_decoy(text: str) -> None:
    for decoy in draw_decoys((0, 1), 6, KINDS, 2, TEXTS):
        decoy.apply(text, random.Random(0))


def test_where_no_text_has_enough_words_all_decoys_are_words() -> None:
    drawn = draw_decoys((0, 1), 3, KINDS, 0, ["fine", "so good", "holds {text} in its words"])
    assert {decoy.kind for decoy in drawn} == {"word"}


def test_no_kinds_and_texts_that_give_too_few_passages_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one kind"):
        draw_decoys((0, 1), 1, [], 0, TEXTS)
    with pytest.raises(DataError, match="No further decoy of the kind passage"):
        draw_decoys((0, 1), 5, ["passage"], 0, ["the same few words"])


@given(st.text(max_size=6), st.text(max_size=6))
def test_one_edit_is_what_levenshtein_says(first: str, second: str) -> None:
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        new = [i]
        for j, other in enumerate(second, 1):
            new.append(min(row[j] + 1, new[-1] + 1, row[j - 1] + (one != other)))
        row = new
    assert within_one_edit(first, second) == (row[-1] <= 1)
