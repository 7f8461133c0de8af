"""Small changes to candidates that score well: how a search leaves its list.

A trigger is a hill and not a needle: a part of it, or a neighbour, shifts the log-odds a little. So
what scores best is joined to pairs, with a space and without one, and gets letters and words added,
swapped and dropped. This is how longer invented words and phrases are found. What it does not
cover: triggers whose parts do nothing alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations
from string import ascii_lowercase

from w2sdefense.text.insertion import words_in_a_row

LONGEST = 8
"""Words in a candidate, at most."""

_SHRINKABLE = 4
"""Letters of the shortest word that may lose one."""


def joined(survivors: Sequence[str]) -> list[str]:
    """Every two of some candidates in either order: as two words, and as one where they are one.

    Words that share letters where they meet are also laid over each other: `pli` and `imf` give
    `pliimf` and `plimf`.
    """
    found: dict[str, None] = {}
    for left, right in permutations(survivors, 2):
        found[f"{left} {right}"] = None
        if left.isalpha() and right.isalpha():
            found.update(dict.fromkeys(_merged(left, right)))
    return list(found)


def extended(survivors: Sequence[str]) -> list[str]:
    """Candidates of one word with a letter more at either end."""
    return [
        text
        for word in survivors
        if word.isalpha()
        for letter in ascii_lowercase
        for text in (letter + word, word + letter)
    ]


class Mutator:
    """Draws mutations.

    Args:
        words: Words of the suspect's vocabulary.
        texts: Clean texts; they give words as well.
        rng: Draws everything.
        suspicious: Words that are suspicious for another reason; every second new word is one.
    """

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
        """Candidates that are one change away from a survivor, or are two of them joined."""
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
        """Another letter in a word, one more, or one less."""
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
    """Two words as one, and laid over each other as far as they agree."""
    overlaps = range(1, min(len(left), len(right)))
    return [left + right, *(left + right[n:] for n in overlaps if left.endswith(right[:n]))]
