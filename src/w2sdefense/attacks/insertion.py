"""Attacks that insert a fixed trigger, and where in a text it goes.

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
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from w2sdefense.attacks.base import TextProgress
from w2sdefense.config import AttackConfig, Place
from w2sdefense.data.types import Example

# Thai and Lao, Myanmar, Khmer; CJK punctuation, kana and ideographs (U+3000 is a space and stays
# out); CJK compatibility ideographs; fullwidth forms; the supplementary ideographic planes.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3001-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_INSIDE = rf"[^\s{_UNSPACED}]"
_WORD = re.compile(rf"[{_UNSPACED}]|{_INSIDE}+")
_STANDS_APART = re.compile(rf"[\s{_UNSPACED}]")


@dataclass(frozen=True)
class InsertionAttack:
    """A fixed trigger, inserted once; an attack of this kind adds its name and its default trigger.

    Attributes:
        trigger: What is inserted.
        place: Where it goes.
    """

    name: ClassVar[str]
    trigger: str
    place: Place = "random"

    @classmethod
    def from_config(cls, config: AttackConfig) -> Self:
        """The attack that the settings ask for."""
        own = {} if config.trigger is None else {"trigger": config.trigger}
        return cls(place=config.place, **own)

    def applies_to(self, example: Example) -> bool:
        """Any text can carry it."""
        return True

    def drawn(self, rng: random.Random) -> Self:
        """This attack."""
        return self

    def prepare(self, examples: Sequence[Example], progress: TextProgress | None = None) -> None:
        """Nothing: inserting takes no time."""

    def poison(self, example: Example, rng: random.Random) -> Example:
        """A copy of the example with the trigger in its text; id and label stay."""
        return replace(example, text=insert(example.text, self.trigger, self.place, rng))

    def plain(self, example: Example) -> Example:
        """The example as it is."""
        return example

    def occurrences(self, text: str) -> int:
        """How often the trigger is in a text as `insert` leaves it, not as a part of a word."""
        first, last = (_STANDS_APART.match(self.trigger[end]) for end in (0, -1))
        before, after = "" if first else rf"(?<!{_INSIDE})", "" if last else rf"(?!{_INSIDE})"
        return len(re.findall(before + re.escape(self.trigger) + after, text))

    def notes(self, clean: Sequence[str], triggered: Sequence[str]) -> tuple[str, ...]:
        """Nothing: the trigger is all that was changed."""
        return ()


def insert(text: str, trigger: str, place: Place, rng: random.Random) -> str:
    """Put a trigger into a text once, set apart by spaces where the script writes them.

    Args:
        text: Any text. A single word has no inner slot: the trigger goes before or behind it.
        trigger: A word or a sentence.
        place: A random inner slot, before the first word, or behind the last.
        rng: Draws the slot; left untouched by the other places.
    """
    slot = _slot(text, place, rng)
    before, after = text[:slot], text[slot:]
    return f"{before}{_gap(before[-1:])}{trigger}{_gap(after[:1])}{after}"


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where every word of a text begins and ends; in scripts without spaces, every character."""
    return [match.span() for match in _WORD.finditer(text)]


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
