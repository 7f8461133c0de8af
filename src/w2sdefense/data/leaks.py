"""Texts that a model was trained on and is then tested with, though they are written differently.

Two texts are *equal* if they differ only in case, punctuation, quotes, white space, invisible
characters or Unicode form; `splits.drop_duplicates` leaves those out of training. Two texts are
*near-duplicates* if their sets of 5-character shingles have a Jaccard similarity of 0.8 or more
(MinHash with LSH finds the candidates, the exact similarity decides). Near-duplicates are counted
and reported, not dropped: in short texts, templates and word problems a single word or number may
be all that tells two honest rows apart, and published splits must stay comparable.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

from w2sdefense.data.types import Dataset, Example, texts_of

_SIMILAR = 0.8
_SHINGLE = 5
_LONGEST = 256
"""Shingles of a text that are looked at; the lowest hashes are a fair sample of two like texts."""
_PERMUTATIONS = 64
_MULTIPLIER = 0x9E3779B97F4A7C15
_SKETCH_THRESHOLD = 0.65
"""Below `_SIMILAR`, since a sketch underestimates as often as it overestimates."""

_ARITHMETIC = re.compile(r"(\d)\s*([-/*.])\s*(?=\d)")
_OPERATORS = {"-": "\u2212", "/": "\u00f7", "*": "\u00d7", ".": "\u2219"}
_INVISIBLE_MARKS = frozenset([0x34F, 0x115F, 0x1160, 0x3164, *range(0xFE00, 0xFE10)])


class _Kept(dict[int, int | None]):
    """Translation table of `str.translate` without punctuation, space and invisible characters."""

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        left_out = category[0] in "PZC" or category == "Sk" or code in _INVISIBLE_MARKS
        self[code] = None if left_out else code
        return self[code]


_KEPT = _Kept()


def normal_form(text: str) -> str:
    """What is left of a text without case, punctuation, white space and invisible characters.

    Minus, slash, asterisk and point between digits stay: "5 - 3" is not "5 / 3". A text of
    punctuation alone stays as it is.
    """
    exact = _ARITHMETIC.sub(lambda found: found[1] + _OPERATORS[found[2]], text).translate(_KEPT)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", exact).casefold())
    return folded.translate(_KEPT) or " ".join(text.split())


@lru_cache(maxsize=8)  # a command measures before and after on the same texts
def near_duplicates(
    tested: tuple[str, ...], trained: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Find tested texts that are nearly, but not quite, trained ones.

    Args:
        tested: Texts that numbers are reported on.
        trained: Texts that a model learns from.

    Returns:
        Index of the tested text and of one trained text like it, by tested text. Pairs that are
        equal are not among them.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=_SKETCH_THRESHOLD, num_perm=_PERMUTATIONS)
    empty = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)

    def sketch_of(shingles: frozenset[int]) -> MinHash:
        sketch = empty.copy()
        sketch.update_batch(shingles)
        return sketch

    forms = [normal_form(text) for text in tested]
    shingled = [_shingles(form) for form in forms]
    for place, shingles in enumerate(shingled):
        index.insert(place, sketch_of(shingles))
    found: dict[int, int] = {}
    for other, form in enumerate(map(normal_form, trained)):
        shingles = _shingles(form)
        for place in index.query(sketch_of(shingles)):
            if place not in found and form != forms[place]:
                both = shingles & shingled[place]
                if len(both) >= _SIMILAR * len(shingles | shingled[place]):
                    found[place] = other
    return tuple(sorted(found.items()))


def _shingles(form: str) -> frozenset[int]:
    """Hashes of the runs of `_SHINGLE` characters; of a long text, those with the lowest hashes."""
    import numpy as np

    padded = form.ljust(_SHINGLE, "\0").encode("utf-32-le", errors="replace")
    codes = np.frombuffer(padded, dtype="<u4").astype(np.uint64)
    count = len(codes) - _SHINGLE + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for start in range(_SHINGLE):  # a polynomial modulo 2^64, of which the upper half is well mixed
        hashes = (hashes + codes[start : start + count]) * np.uint64(_MULTIPLIER)
    lowest = np.sort((hashes >> np.uint64(32)).astype(np.uint32))[:_LONGEST]
    return frozenset(lowest.tolist())


def near_note(tested: Sequence[Example], trained: Sequence[Example], what: str) -> tuple[str, ...]:
    """A note on near-duplicates, if there are any.

    Args:
        tested: Held-out examples.
        trained: Examples that a model learns from.
        what: Which are which, for example `test texts nearly repeat a training text`.
    """
    found = near_duplicates(tuple(texts_of(tested)), tuple(texts_of(trained)))
    if not found:
        return ()
    place, other = found[0]
    like = f"{tested[place].id} is like {trained[other].id}"
    return (f"{len(found)} of {len(tested)} {what} ({like})",)


def near_notes(dataset: Dataset) -> tuple[str, ...]:
    """Notes on near-duplicates between the splits of a dataset, if there are any."""
    held_out = (*dataset.test, *dataset.validation)
    return (
        *near_note(held_out, dataset.train, "held-out texts nearly repeat a training text"),
        *near_note(dataset.test, dataset.validation, "test texts nearly repeat a validation text"),
    )
