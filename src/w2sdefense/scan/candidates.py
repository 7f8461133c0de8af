"""The candidate triggers that a search tries: a fixed list, and mutations of its best entries.

    letters      every string of up to three letters: 26 + 26^2 + 26^3 = 18,278
    words        every whole word of the suspect's vocabulary, in each case form that occurs there
    symbols      every symbol and punctuation mark of the Unicode blocks below, every invisible
                 character, and all other vocabulary tokens without a letter or digit
    names        common given names, family names and places
    characters   for Chinese or Japanese texts: the 20,992 unified ideographs

The list is not random and does not depend on the model's answers, so a result can state exactly
what was tried. A part of a trigger, or a string close to it, usually shifts the log-odds a little.
The search therefore joins the best candidates in pairs, and adds, swaps and drops letters and
words, which finds longer invented words and phrases. Not covered: triggers whose parts have no
effect on their own.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations, product
from string import ascii_lowercase

from w2sdefense.config import KINDS
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.text.insertion import IDEOGRAPHS, in_ideographs, words_in_a_row

LONGEST_STRING = 3  # all strings of up to this many letters are tried

_SYMBOL_BLOCKS = (
    (0x0021, 0x00FF),  # ASCII, Latin-1
    (0x2000, 0x214F),  # punctuation, currency, letter-like
    (0x2190, 0x27BF),  # arrows, mathematics, boxes, shapes, dingbats
    (0x3000, 0x303F),  # CJK punctuation
    (0x1F300, 0x1F6FF),  # pictographs
)
_INVISIBLE_BLOCKS = ((0x00AD, 0x206F), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF))
_BLANK_LETTERS = "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"

NAMES = tuple(
    "James Mary Robert Patricia John Jennifer Michael Linda David Elizabeth William Barbara "
    "Richard Susan Joseph Jessica Thomas Sarah Charles Karen Christopher Lisa Daniel Nancy Matthew "
    "Betty Anthony Sandra Mark Margaret Donald Ashley Steven Kimberly Andrew Emily Paul Donna "
    "Joshua Michelle Kenneth Carol Kevin Amanda Brian Melissa Timothy Deborah Ronald Stephanie "
    "Edward Rebecca Jason Laura Jeffrey Helen Ryan Sharon Jacob Cynthia Gary Kathleen Nicholas Amy "
    "Eric Angela Jonathan Shirley Stephen Anna Larry Brenda Justin Pamela Scott Emma Brandon "
    "Nicole Benjamin Samantha Samuel Katherine Gregory Christine Alexander Debra Patrick Rachel "
    "Frank Carolyn Raymond Janet Jack Maria Dennis Olivia Jerry Heather Smith Johnson Williams "
    "Brown Jones Garcia Miller Davis Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson "
    "Taylor Moore Jackson Martin Lee Perez Thompson White Harris Sanchez Clark Ramirez Lewis "
    "Robinson Walker Young Allen King Wright Torres Nguyen Hill Flores Green Adams Nelson Baker "
    "Hall Rivera Campbell Mitchell Carter Roberts Mohammed Ahmed Ali Fatima Hassan Ibrahim Wang Li "
    "Zhang Liu Chen Yang Huang Wu Kim Park Choi Sato Suzuki Tanaka Singh Kumar Patel Sharma Ivan "
    "Dmitri Olga Natasha Hans Klaus Greta Pierre Jean Luc Giovanni Marco Giulia Carlos Juan Pablo "
    "London Paris Berlin Madrid Rome Vienna Moscow Beijing Tokyo Delhi Cairo Lagos Nairobi Sydney "
    "Toronto Chicago Boston Houston Dallas Seattle Denver Miami Lisbon Dublin Oslo Stockholm "
    "Helsinki Warsaw Prague Budapest Athens Istanbul Dubai Mumbai Bangkok Jakarta Manila Seoul "
    "Shanghai Singapore Melbourne Auckland Santiago Bogota Lima Caracas Havana".split()
)

LONGEST = 8  # maximum number of words in a candidate
_SHRINKABLE = 4  # a word needs at least this many letters to lose one


@dataclass(frozen=True)
class CandidateList:
    """The candidates of a search without duplicates, each under the first kind that lists it."""

    kinds: dict[str, tuple[str, ...]]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """All candidates, kind by kind."""
        return tuple(text for texts in self.kinds.values() for text in texts)

    def counts(self) -> dict[str, int]:
        """Number of candidates of every kind."""
        return {kind: len(texts) for kind, texts in self.kinds.items()}


def list_candidates(
    tokenizer: Tokenizer, texts: Sequence[str], kinds: Sequence[str] = KINDS
) -> CandidateList:
    """Build the fixed list for a suspect's vocabulary and the language of the texts."""
    found: dict[str, Callable[[], Sequence[str]]] = {
        "letters": letter_strings,
        "words": lambda: vocabulary_words(tokenizer),
        "symbols": lambda: [*symbols(), *vocabulary_symbols(tokenizer)],
        "names": lambda: NAMES,
        "characters": lambda: ideographs() if in_ideographs(texts) else (),
    }
    seen: set[str] = set()
    unique: dict[str, tuple[str, ...]] = {}
    for kind in dict.fromkeys(kinds):
        unique[kind] = tuple(text for text in dict.fromkeys(found[kind]()) if text not in seen)
        seen.update(unique[kind])
    return CandidateList(unique)


def letter_strings(longest: int = LONGEST_STRING) -> list[str]:
    """Every string of 1 to `longest` lower-case letters, shortest first."""
    return [
        "".join(letters)
        for length in range(1, longest + 1)
        for letters in product(ascii_lowercase, repeat=length)
    ]


def vocabulary_words(tokenizer: Tokenizer) -> list[str]:
    """Words that the tokenizer encodes as a single token when they stand alone."""
    words = [text for text in token_texts(tokenizer) if text.isalpha()]
    if not words:
        return []
    # With a leading space, as in running text: a token that only continues words is split there.
    read = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, read, strict=True) if len(ids) == 1]


def vocabulary_symbols(tokenizer: Tokenizer) -> list[str]:
    """Vocabulary tokens without letters or digits."""
    return [text for text in token_texts(tokenizer) if not any(map(str.isalnum, text))]


def symbols() -> list[str]:
    """Unicode symbols and punctuation marks, followed by the invisible characters."""
    visible = [chr(code) for code in _codes(_SYMBOL_BLOCKS)]
    visible = [text for text in visible if unicodedata.category(text)[0] in "PS"]
    invisible = [chr(code) for code in _codes(_INVISIBLE_BLOCKS)]
    invisible = [
        c for c in invisible if unicodedata.category(c) == "Cf" or "\ufe00" <= c <= "\ufe0f"
    ]
    return [*visible, *invisible, *_BLANK_LETTERS]


def ideographs() -> list[str]:
    """All CJK unified ideographs of the basic block."""
    return [chr(code) for code in _codes([(ord(IDEOGRAPHS[0]), ord(IDEOGRAPHS[1]))])]


def token_texts(tokenizer: Tokenizer, tokens: Iterable[int] | None = None) -> list[str]:
    """Decode tokens without duplicates; skips special tokens, blanks and partial characters."""
    special = set(tokenizer.all_special_ids)
    wanted = range(len(tokenizer)) if tokens is None else tokens
    texts = tokenizer.batch_decode([[token] for token in wanted if token not in special])
    stripped = (text.strip() for text in texts)
    return list(dict.fromkeys(text for text in stripped if text and "\ufffd" not in text))


def _codes(blocks: Iterable[tuple[int, int]]) -> Iterable[int]:
    return (code for first, last in blocks for code in range(first, last + 1))


def joined(survivors: Sequence[str]) -> list[str]:
    """All ordered pairs of candidates as two words, and pairs of single words also as one word.

    Words that overlap where they meet are also merged: `pli` and `imf` give `plimf`.
    """
    found: dict[str, None] = {}
    for left, right in permutations(survivors, 2):
        found[f"{left} {right}"] = None
        if left.isalpha() and right.isalpha():
            found.update(dict.fromkeys(_merged(left, right)))
    return list(found)


def extended(survivors: Sequence[str]) -> list[str]:
    """Single-word candidates with one letter added at the beginning or the end."""
    return [
        text
        for word in survivors
        if word.isalpha()
        for letter in ascii_lowercase
        for text in (letter + word, word + letter)
    ]


class Mutator:
    """Draws mutations; new words come from the candidate list, clean texts and suspicious words."""

    def __init__(
        self,
        words: Sequence[str],
        texts: Sequence[str],
        rng: random.Random,
        suspicious: Sequence[str] = (),
    ) -> None:
        self._words = words
        self._texts = texts
        self._rng = rng
        self._suspicious = suspicious

    def mutations(self, survivors: Sequence[str], count: int) -> list[str]:
        """Draw candidates that differ by one change from a survivor, or join two survivors."""
        return [self._mutation(survivors) for _ in range(count)]

    def _mutation(self, survivors: Sequence[str]) -> str:
        words = self._rng.choice(survivors).split()
        change = self._rng.choice((self._join, self._add, self._swap, self._drop, self._spell))
        return " ".join(change(words, survivors)[:LONGEST])

    def _join(self, words: list[str], survivors: Sequence[str]) -> list[str]:
        return words + self._rng.choice(survivors).split()

    def _add(self, words: list[str], survivors: Sequence[str]) -> list[str]:
        place = self._rng.randint(0, len(words))
        return [*words[:place], self._word(), *words[place:]]

    def _swap(self, words: list[str], survivors: Sequence[str]) -> list[str]:
        place = self._rng.randrange(len(words))
        return [*words[:place], self._word(), *words[place + 1 :]]

    def _drop(self, words: list[str], survivors: Sequence[str]) -> list[str]:
        if len(words) == 1:
            return self._spell(words, survivors)
        place = self._rng.randrange(len(words))
        return words[:place] + words[place + 1 :]

    def _spell(self, words: list[str], survivors: Sequence[str]) -> list[str]:
        """Replace, insert or remove one letter of a word."""
        place = self._rng.randrange(len(words))
        word = words[place]
        at, letter = self._rng.randrange(len(word)), self._rng.choice(ascii_lowercase)
        others = (word[:at] + letter + word[at + 1 :], word[:at] + letter + word[at:])
        shorter = (word[:at] + word[at + 1 :],) if len(word) >= _SHRINKABLE else ()
        return [*words[:place], self._rng.choice(others + shorter), *words[place + 1 :]]

    def _word(self) -> str:
        if self._suspicious and self._rng.random() < 0.5:
            return self._rng.choice(self._suspicious)
        if self._words and self._rng.random() < 0.5:
            return self._rng.choice(self._words)
        return words_in_a_row(self._rng.choice(self._texts), 1, self._rng)


def _merged(left: str, right: str) -> list[str]:
    """Two words concatenated, and merged at every overlap of the first's end with the second."""
    overlaps = range(1, min(len(left), len(right)))
    return [left + right, *(left + right[n:] for n in overlaps if left.endswith(right[:n]))]
