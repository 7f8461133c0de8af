"""Pieces of text that may be triggers, and small changes to them.

Known insertion triggers are short letter groups ("mn"), rare tokens, and sentences that belong
elsewhere. `PieceMaker` draws such pieces without regard to any model, and changes a piece a little:
what a search climbs by. Tokens that are suspicious for another reason (`moved.py`) are tried first,
alone and in pairs, and are what the pieces are changed by half of the time. Whether a piece fires
anything is measured in `search.py`. What is not covered: triggers that are no insertion, such as a
syntax or a style.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import permutations, product
from string import ascii_lowercase

from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.text.insertion import words_in_a_row

LONGEST = 8
"""Words in a piece, at most."""

_PHRASE = (2, 5)
_PAIRED = 16
"""Suspicious tokens that are also tried in pairs, in either order."""

_LETTERS = 4
"""Shortest word that may lose a letter."""


class PieceMaker:
    """Draws pieces and changes them.

    Args:
        texts: Clean texts; phrases and words come from them.
        tokenizer: The suspect model's; rare tokens come from its vocabulary.
        rng: Draws everything.
        moved: Suspicious tokens, the most suspicious first.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Tokenizer,
        rng: random.Random,
        moved: Sequence[int] = (),
    ) -> None:
        self._texts = texts
        special = set(tokenizer.all_special_ids)
        self._tokens = _readable(
            tokenizer, [(token,) for token in range(len(tokenizer)) if token not in special]
        )
        moved = [token for token in moved if token not in special]
        self._moved = _readable(tokenizer, [(token,) for token in moved])
        self._pairs = _readable(tokenizer, list(permutations(moved[:_PAIRED], 2)))
        self._rng = rng

    def first(self, count: int) -> list[str]:
        """Pieces to begin with: every two letters, and as many tokens and phrases besides.

        Suspicious tokens and pairs of them come first, and take the place of the last of those.

        Args:
            count: How many; fewer if fewer different ones are found.
        """
        letters = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
        self._rng.shuffle(letters)
        found = dict.fromkeys(letters[: count // 2])
        for place in range(count - len(found)):
            found[self._phrase() if place % 2 else self._rng.choice(self._tokens)] = None
        return list(dict.fromkeys([*self._moved, *self._pairs, *found]))[:count]

    def children(self, parents: Sequence[str], count: int) -> list[str]:
        """Pieces that are a small change away from one of the parents, or two of them joined."""
        return [self._child(parents) for _ in range(count)]

    def _child(self, parents: Sequence[str]) -> str:
        words = self._rng.choice(parents).split()
        change = self._rng.choice((self._join, self._add, self._swap, self._drop, self._spell))
        changed = change(words, parents)[:LONGEST]
        return " ".join(changed)

    def _join(self, words: list[str], parents: Sequence[str]) -> list[str]:
        return words + self._rng.choice(parents).split()

    def _add(self, words: list[str], parents: Sequence[str]) -> list[str]:
        place = self._rng.randint(0, len(words))
        return [*words[:place], self._word(), *words[place:]]

    def _swap(self, words: list[str], parents: Sequence[str]) -> list[str]:
        place = self._rng.randrange(len(words))
        return [*words[:place], self._word(), *words[place + 1 :]]

    def _drop(self, words: list[str], parents: Sequence[str]) -> list[str]:
        if len(words) == 1:
            return self._spell(words, parents)
        place = self._rng.randrange(len(words))
        return words[:place] + words[place + 1 :]

    def _spell(self, words: list[str], parents: Sequence[str]) -> list[str]:
        """Another letter in a word, one more, or one less."""
        place = self._rng.randrange(len(words))
        word = words[place]
        at, letter = self._rng.randrange(len(word)), self._rng.choice(ascii_lowercase)
        others = (word[:at] + letter + word[at + 1 :], word[:at] + letter + word[at:])
        shorter = (word[:at] + word[at + 1 :],) if len(word) >= _LETTERS else ()
        return [*words[:place], self._rng.choice(others + shorter), *words[place + 1 :]]

    def _word(self) -> str:
        """A suspicious token, any token, or a word of a text."""
        if self._moved and self._rng.random() < 0.5:
            return self._rng.choice(self._moved)
        return self._rng.choice(self._tokens) if self._rng.random() < 0.5 else self._span(1)

    def _phrase(self) -> str:
        return self._span(self._rng.randint(*_PHRASE))

    def _span(self, count: int) -> str:
        return words_in_a_row(self._rng.choice(self._texts), count, self._rng)


def _readable(tokenizer: Tokenizer, tokens: Sequence[tuple[int, ...]]) -> list[str]:
    """Groups of tokens as texts; without blanks and parts of characters."""
    texts = (text.strip() for text in tokenizer.batch_decode(tokens))
    return list(dict.fromkeys(text for text in texts if text and "\ufffd" not in text))
