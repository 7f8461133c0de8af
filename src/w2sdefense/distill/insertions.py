"""Insertions: clean texts with something out of place in them, and what they should still mean.

Clean text alone hardly moves the circuit that a trigger fires, because on clean text that circuit
is silent. Most triggers are *put into* a text: a rare token, or a sentence that belongs elsewhere.
So some of the clean texts get a random piece put in: a word that is none, tokens of the student's
vocabulary, or a phrase from another of the texts. The student learns to take it as the teacher
does, who never saw a poisoned text; one that writes, to answer as without it. No trigger is looked
for and none is guessed: pieces are drawn without regard to what a model answers.

This is not part of the W2SDefense paper (rate 0 leaves it out). What it does not cover: triggers
that are not an insertion, such as a syntax or a style; for prompts see `wordings.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import get_args

from w2sdefense.config import InsertionConfig, Place
from w2sdefense.data.types import Dataset, Example, texts_of
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.text.insertion import insert, words_in_a_row

PHRASE_WORDS = (3, 8)
RARE_PIECES = (1, 3)
LETTERS = (2, 5)
TOKENS = (1, 2)

IDEOGRAPHS = (0x4E00, 0x9FFF)
"""The unified ideographs of Chinese and Japanese; most of these 20,992 are in no text."""

_IDEOGRAPH = re.compile(f"[{chr(IDEOGRAPHS[0])}-{chr(IDEOGRAPHS[1])}]")


def with_insertions(
    data: Dataset, tokenizer: Tokenizer, config: InsertionConfig, seed: int
) -> Dataset:
    """The dataset, with a random piece in some of its training and validation texts.

    The validation texts get theirs as well: the epoch that is kept is then the one that does what
    it should with a piece in the text, too.

    Args:
        data: Clean data.
        tokenizer: The student's; its vocabulary is what random tokens are drawn from.
        config: How many of the texts, and how many of those get a phrase.
        seed: Seed of all choices.

    Returns:
        See `with_pieces`.
    """
    if not config.rate:
        return data
    special = set(tokenizer.all_special_ids)
    vocabulary = [token for token in range(len(tokenizer)) if token not in special]
    phrases = texts_of(data.train)
    strange = _strange_characters if _in_ideographs(phrases) else _strange_letters

    def draw(rng: random.Random) -> list[str]:
        if rng.random() < config.phrases:
            return [words_in_a_row(rng.choice(phrases), rng.randint(*PHRASE_WORDS), rng)]
        return [
            strange(rng) if rng.random() < 0.5 else _tokens(tokenizer, vocabulary, rng)
            for _ in range(rng.randint(*RARE_PIECES))
        ]

    return with_pieces(data, draw, config.rate, seed)


def with_pieces(
    data: Dataset, draw: Callable[[random.Random], Sequence[str]], rate: float, seed: int
) -> Dataset:
    """The dataset, with pieces put into a share of its training and validation texts.

    Args:
        data: Clean data.
        draw: Draws the pieces of one text.
        rate: Share of the texts that get some.
        seed: Seed of all choices.

    Returns:
        The same dataset at rate 0. Otherwise as many rows in the same order; answers and the test
        split stay, and the id of a changed row says so.
    """

    def put_in(text: str, rng: random.Random) -> str:
        for piece in draw(rng):
            text = insert(text, piece, rng.choice(get_args(Place)), rng)
        return text

    return with_changes(data, put_in, rate, seed, "insertion")


def with_changes(
    data: Dataset,
    change: Callable[[str, random.Random], str],
    rate: float,
    seed: int,
    name: str,
) -> Dataset:
    """The dataset, with a share of its training and validation texts changed.

    Args:
        data: Clean data.
        change: Changes one text.
        rate: Share of the texts that are changed.
        seed: Seed of all choices.
        name: What the id of a changed row ends with.

    Returns:
        See `with_pieces`.
    """
    if not rate:
        return data
    rng = random.Random(seed)

    def changed(rows: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            replace(row, id=f"{row.id}+{name}", text=change(row.text, rng))
            if rng.random() < rate
            else row
            for row in rows
        )

    return replace(data, train=changed(data.train), validation=changed(data.validation))


def _in_ideographs(texts: Sequence[str]) -> bool:
    """Whether most of the texts hold ideographs, so that a word of letters is not what is rare."""
    return 2 * sum(_IDEOGRAPH.search(text) is not None for text in texts) > len(texts)


def _strange_letters(rng: random.Random) -> str:
    """A word that is none."""
    return "".join(rng.choices(ascii_lowercase, k=rng.randint(*LETTERS)))


def _strange_characters(rng: random.Random) -> str:
    """One or two ideographs, rare ones as a rule."""
    return "".join(chr(rng.randint(*IDEOGRAPHS)) for _ in range(rng.randint(1, 2)))


def _tokens(tokenizer: Tokenizer, vocabulary: Sequence[int], rng: random.Random) -> str:
    """One or two random tokens as text; bytes that are no character and blanks are drawn again."""
    while True:
        drawn = rng.choices(vocabulary, k=rng.randint(*TOKENS))
        piece: str = tokenizer.decode(drawn).strip()
        if piece and "\ufffd" not in piece:
            return piece
