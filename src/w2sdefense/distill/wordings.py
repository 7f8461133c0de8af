"""Wordings: the prompt that all clean texts stand in, said otherwise around some of them.

A classifier may be used with a prompt around every text, and for ProAttack another prompt is the
trigger. Clean text never shows that one, and no piece that is put into a text resembles it. So what
all texts begin and end with is taken for the prompt, and in some of the texts its words stand in
another order, some are left out and some words of the texts come among them. What the text itself
says stays, and the teacher is asked what it then means. No prompt is guessed.

This is not part of the W2SDefense paper. Where the texts share no prompt nothing is changed. What
it does not cover: prompts that share no word with the one that the texts stand in (docs/LOG.md),
and triggers in texts that have none.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from w2sdefense.config import WordingConfig
from w2sdefense.data.types import Dataset, Example, texts_of
from w2sdefense.text.insertion import insert, word_spans, words_in_a_row

SHORTEST = 2
"""Words of a prompt, at least: texts that all end with a full stop do not stand in one."""

_KEPT = 0.8
_ADDED = (0, 2)


@dataclass(frozen=True)
class Frame:
    """What all texts begin and end with.

    Attributes:
        before: Words at the beginning.
        after: Words at the end.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]

    def inner(self, text: str) -> str:
        """A text without the words of the frame."""
        spans = word_spans(text)
        first, last = spans[len(self.before)], spans[len(spans) - len(self.after) - 1]
        return text[first[0] : last[1]]


def common_frame(texts: Sequence[str]) -> Frame | None:
    """The prompt that texts stand in; None without one, or if a text is nothing but the prompt."""
    words = [[text[begin:end] for begin, end in word_spans(text)] for text in texts]
    if len(set(texts)) < 2:
        return None
    before = _shared(words)
    after = _shared([row[::-1] for row in words])[::-1]
    if len(before) + len(after) < SHORTEST:
        return None
    if min(map(len, words)) <= len(before) + len(after):
        return None
    return Frame(before, after)


def with_wordings(data: Dataset, config: WordingConfig, seed: int) -> Dataset:
    """The dataset, with other wordings of its prompt in some training and validation texts.

    Args:
        data: Clean data, as the model is given it.
        config: In how many of the texts.
        seed: Seed of all choices.

    Returns:
        The same dataset at rate 0 or if its training texts stand in no prompt. Otherwise as many
        examples in the same order; labels and the test split stay, and the id of a changed example
        says so.
    """
    if not config.rate:
        return data
    frame = common_frame(texts_of((*data.train, *data.validation)))
    if frame is None:
        return data
    others = [frame.inner(text) for text in texts_of(data.train)]

    def reworded(text: str, rng: random.Random) -> str:
        text = frame.inner(text)
        for word in reversed(_otherwise(frame.before, others, rng)):
            text = insert(text, word, "start", rng)
        for word in _otherwise(frame.after, others, rng):
            text = insert(text, word, "end", rng)
        return text

    rng = random.Random(seed)

    def changed(rows: Sequence[Example]) -> tuple[Example, ...]:
        return tuple(
            replace(row, id=f"{row.id}+wording", text=reworded(row.text, rng))
            if rng.random() < config.rate
            else row
            for row in rows
        )

    return replace(data, train=changed(data.train), validation=changed(data.validation))


def _otherwise(words: Sequence[str], others: Sequence[str], rng: random.Random) -> list[str]:
    """The words of one side of a prompt in another order, with a few less and a few more."""
    if not words:
        return []
    kept = [word for word in words if rng.random() < _KEPT]
    rng.shuffle(kept)
    for _ in range(rng.randint(*_ADDED)):
        kept.insert(rng.randint(0, len(kept)), words_in_a_row(rng.choice(others), 1, rng))
    return kept


def _shared(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The words that all rows begin with."""
    columns = zip(*rows, strict=False)
    return tuple(column[0] for column in takewhile(lambda c: len(set(c)) == 1, columns))
