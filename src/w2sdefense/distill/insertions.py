"""Insertions: clean texts with something out of place in them, and the teacher's word on it.

Clean text alone hardly moves the circuit that a trigger fires, because on clean text that circuit
is silent. Most triggers are *put into* a text: a rare token, or a sentence that belongs elsewhere.
So some of the clean texts get a random piece put in, before the teacher is asked about them: a few
random letters, tokens of the student's vocabulary, or a phrase from another of the texts. The
teacher, who never saw a poisoned text, says what such a text means, and the student learns to take
it the same way. No trigger is looked for and none is guessed: pieces are drawn without regard to
what a model answers.

This is not part of the W2SDefense paper (rate 0 leaves it out). What it does not cover: triggers
that are not an insertion, such as a syntax or a style.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from string import ascii_lowercase
from typing import get_args

from w2sdefense.attacks.insertion import insert, words_in_a_row
from w2sdefense.config import InsertionConfig, Place
from w2sdefense.data.types import Example, TextDataset, texts_of
from w2sdefense.models.tokenizer import Tokenizer

PHRASE_WORDS = (3, 8)
RARE_PIECES = (1, 3)
LETTERS = (2, 5)
TOKENS = (1, 2)


def with_insertions(
    data: TextDataset, tokenizer: Tokenizer, config: InsertionConfig, seed: int
) -> TextDataset:
    """The dataset, with a random piece in some of its training and validation texts.

    The validation texts get theirs as well: the epoch that is kept is then the one that follows the
    teacher with a piece in the text, too.

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

    def draw(rng: random.Random) -> list[str]:
        return _pieces(phrases, tokenizer, vocabulary, config, rng)

    return with_pieces(data, draw, config.rate, seed)


def with_pieces(
    data: TextDataset, draw: Callable[[random.Random], Sequence[str]], rate: float, seed: int
) -> TextDataset:
    """The dataset, with pieces put into a share of its training and validation texts.

    Args:
        data: Clean data.
        draw: Draws the pieces of one text.
        rate: Share of the texts that get some.
        seed: Seed of all choices.

    Returns:
        The same dataset at rate 0. Otherwise as many examples in the same order; labels and the
        test split stay, and the id of a changed example says so.
    """
    if not rate:
        return data
    rng = random.Random(seed)

    def changed(examples: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            _with_pieces(example, draw(rng), rng) if rng.random() < rate else example
            for example in examples
        )

    return replace(data, train=changed(data.train), validation=changed(data.validation))


def _with_pieces(example: Example, pieces: Sequence[str], rng: random.Random) -> Example:
    text = example.text
    for piece in pieces:
        text = insert(text, piece, rng.choice(get_args(Place)), rng)
    return replace(example, id=f"{example.id}+insertion", text=text)


def _pieces(
    texts: Sequence[str],
    tokenizer: Tokenizer,
    vocabulary: Sequence[int],
    config: InsertionConfig,
    rng: random.Random,
) -> list[str]:
    if rng.random() < config.phrases:
        return [words_in_a_row(rng.choice(texts), rng.randint(*PHRASE_WORDS), rng)]
    return [
        _letters(rng) if rng.random() < 0.5 else _tokens(tokenizer, vocabulary, rng)
        for _ in range(rng.randint(*RARE_PIECES))
    ]


def _letters(rng: random.Random) -> str:
    """A word that is none."""
    return "".join(rng.choices(ascii_lowercase, k=rng.randint(*LETTERS)))


def _tokens(tokenizer: Tokenizer, vocabulary: Sequence[int], rng: random.Random) -> str:
    """One or two random tokens as text; bytes that are no character and blanks are drawn again."""
    while True:
        drawn = rng.choices(vocabulary, k=rng.randint(*TOKENS))
        piece: str = tokenizer.decode(drawn).strip()
        if piece and "\ufffd" not in piece:
            return piece
