"""Where a trigger goes in a text: slots between words, and the spaces that set it apart.

The paper's place is uniform over the inner slots 1..n-1 of the whitespace words, so that the
trigger is neither the first nor the last word. Scripts that write no spaces (Chinese, Japanese,
Thai ...) have a slot at every character instead. What was there is never changed: taking the
trigger, with the spaces that set it apart, out again gives back the text. Truncation, which can cut
a trigger off, is the business of whoever tokenizes.
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
"""First and last of the 20,992 unified ideographs of Chinese and Japanese."""

_IDEOGRAPH = re.compile("[{}-{}]".format(*IDEOGRAPHS))
_STANDS_APART = re.compile(rf"[\s{_UNSPACED}]")


def insert(text: str, trigger: str, place: Place, rng: random.Random) -> str:
    """Put a trigger into a text once, set apart by spaces where the script writes them.

    A single word has no inner slot: the trigger goes before or behind it. Only a random place
    draws.
    """
    slot = _slot(text, place, rng)
    before, after = text[:slot], text[slot:]
    return f"{before}{_gap(before[-1:])}{trigger}{_gap(after[:1])}{after}"


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where every word of a text begins and ends; in scripts without spaces, every character."""
    return [match.span() for match in _WORD.finditer(text)]


def in_ideographs(texts: Sequence[str]) -> bool:
    """Whether most of the texts hold ideographs."""
    return 2 * sum(_IDEOGRAPH.search(text) is not None for text in texts) > len(texts)


def words_in_a_row(text: str, count: int, rng: random.Random) -> str:
    """So many words in a row of a text, from a random one on; all of a text that has fewer."""
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
    """The space between the trigger and the character beside it, if any is needed."""
    return " " if neighbour and not _STANDS_APART.match(neighbour) else ""


def count_insertions(text: str, trigger: str) -> int:
    """How often a trigger is in a text as `insert` leaves it, not as a part of a word."""
    first, last = (_STANDS_APART.match(trigger[end]) for end in (0, -1))
    before, after = "" if first else rf"(?<!{_INSIDE})", "" if last else rf"(?!{_INSIDE})"
    return len(re.findall(before + re.escape(trigger) + after, text))
