"""Inserts a trigger into a text: a slot between words, and spaces around the trigger.

As in the paper, a random place is uniform over the inner slots 1..n-1 of n whitespace-separated
words, so the trigger is neither the first nor the last word. In scripts without spaces (Chinese,
Japanese, Thai ...) every character counts as a word. The rest of the text is unchanged: removing
the trigger and the added spaces restores it. Not covered: truncation by a tokenizer, which can cut
off a trigger.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from w2sdefense.config import Place

# Thai and Lao, Myanmar, Khmer; CJK punctuation, kana and ideographs (U+3000 is a space and stays
# out); CJK compatibility ideographs; fullwidth forms; the supplementary ideographic planes.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3001-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_INSIDE = rf"[^\s{_UNSPACED}]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_INSIDE}+")
IDEOGRAPHS = ("\u4e00", "\u9fff")
"""First and last of the 20,992 CJK unified ideographs of the basic block."""

_IDEOGRAPH = re.compile("[{}-{}]".format(*IDEOGRAPHS))
_STANDS_APART = re.compile(rf"[\s{_UNSPACED}]")


def insert(text: str, trigger: str, place: Place, rng: random.Random) -> str:
    """Insert a trigger into a text once, with spaces around it where the script uses them.

    A single word has no inner slot, so a random place is before or after it. The generator is used
    for random places only.
    """
    slot = _slot(text, place, rng)
    before, after = text[:slot], text[slot:]
    return f"{before}{_gap(before[-1:])}{trigger}{_gap(after[:1])}{after}"


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of every word of a text; in scripts without spaces, of every character."""
    return [match.span() for match in _WORD.finditer(text)]


def in_ideographs(texts: Sequence[str]) -> bool:
    """Whether most of the texts contain CJK ideographs."""
    return 2 * sum(_IDEOGRAPH.search(text) is not None for text in texts) > len(texts)


def words_in_a_row(text: str, count: int, rng: random.Random) -> str:
    """Draw `count` consecutive words of a text; a text with fewer words is returned whole."""
    words = word_spans(text)
    count = min(count, len(words))
    first = rng.randint(0, len(words) - count)
    return text[words[first][0] : words[first + count - 1][1]]


def _slot(text: str, place: Place, rng: random.Random) -> int:
    """The character position where the trigger goes."""
    words = word_spans(text)
    if not words:
        return len(text)
    if place == "random" and len(words) > 1:
        return words[rng.randrange(1, len(words))][0]
    if place == "start" or (place == "random" and rng.random() < 0.5):
        return words[0][0]
    return words[-1][1]


def _gap(neighbour: str) -> str:
    """The space between the trigger and a neighbouring character, if one is needed."""
    return " " if neighbour and not _STANDS_APART.match(neighbour) else ""


def count_insertions(text: str, trigger: str) -> int:
    """Number of occurrences of a trigger in a text, without those inside a longer word."""
    first, last = (_STANDS_APART.match(trigger[end]) for end in (0, -1))
    before, after = "" if first else rf"(?<!{_INSIDE})", "" if last else rf"(?!{_INSIDE})"
    return len(re.findall(before + re.escape(trigger) + after, text))
