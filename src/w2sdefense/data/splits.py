"""Assigns rows to splits: names of splits, seeded stratified samples, duplicates, limits.

All sampling uses one order, `stratified_order`: rows are ranked by a hash of seed and id, and
classes are interleaved so that every prefix has about the class shares of the whole. A held-out
split is a prefix of that order, and a limit is a shorter prefix. Hashing instead of shuffling gives
the same splits in all versions of Python and numpy.

Two texts are *equal* if they differ only in case, punctuation, white space, invisible characters or
Unicode form; equal texts are dropped from train, and from validation if they are in test. They are
*near-duplicates* if their sets of 5-character shingles have a Jaccard similarity of 0.8 or more
(MinHash with LSH finds candidates, the exact similarity decides). Near-duplicates are counted but
not dropped, because in short texts, templates and word problems, legitimately different rows may
differ in a single word.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from html import unescape

from w2sdefense.data.types import Dataset, Example, Split, texts_of
from w2sdefense.errors import DataError

_SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}

_SIMILAR = 0.8
_SHINGLE = 5
_LONGEST = 256
"""Maximum shingles per text; those with the lowest hashes are a consistent sample of all texts."""
_PERMUTATIONS = 64
_MULTIPLIER = 0x9E3779B97F4A7C15
_SKETCH_THRESHOLD = 0.65
"""Lower than `_SIMILAR`, because the estimate from a sketch may be too low."""

_ARITHMETIC = re.compile(r"(\d)\s*([-/*.])\s*(?=\d)")
_OPERATORS = {"-": "\u2212", "/": "\u00f7", "*": "\u00d7", ".": "\u2219"}
_INVISIBLE_MARKS = frozenset(
    [*range(0x334, 0x339), 0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, *range(0x180B, 0x1810), 0x2800]
    + [0x3164, *range(0xFE00, 0xFE10), 0xFFA0, *range(0xE0100, 0xE01F0)]
)
_TAG = re.compile(
    r"</?(?:a|b|br|div|em|font|hr|i|li|p|q|span|strong|sub|sup|u|ul)"
    r"(?:\s+[\w-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'))*\s*/?>",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"-[lr][crs]b-", re.IGNORECASE)
"""Brackets as written in the Penn Treebank and SST."""


def pick_splits(available: Collection[str]) -> dict[Split, str]:
    """Map our split names to those of a source, for example validation to `dev`."""
    chosen: dict[Split, str] = {}
    for split, spellings in _SPELLINGS.items():
        for name in spellings:
            if name in available:
                chosen[split] = name
                break
    return chosen


def stratified_order(examples: Iterable[Example], seed: int) -> list[Example]:
    """Put examples in a seeded order in which every prefix has about the class shares of the whole.

    The order depends only on ids, labels and seed, not on the order of the input.
    """
    by_label: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        # Text answers have no classes, so they form a single group.
        by_label[example.answer if isinstance(example.answer, int) else 0].append(example)
    placed = []
    for label, members in by_label.items():
        ranks = {e.id: hashlib.blake2b(f"{seed}/{e.id}".encode(), digest_size=8) for e in members}
        members.sort(key=lambda example: ranks[example.id].digest())
        # The k-th of n members gets the relative position (k + 1/2) / n.
        placed += [((k + 0.5) / len(members), label, e) for k, e in enumerate(members)]
    placed.sort(key=lambda item: item[:2])
    return [example for _, _, example in placed]


def carve(
    examples: Sequence[Example], count: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Split off a stratified sample of `count` examples; returns the rest and the sample."""
    chosen = {example.id for example in stratified_order(examples, seed)[:count]}
    rest = [example for example in examples if example.id not in chosen]
    return rest, [example for example in examples if example.id in chosen]


def complete_splits(
    splits: Mapping[Split, Sequence[Example]], seed: int, held_out: int | None = None
) -> dict[Split, list[Example]]:
    """Make missing splits of `held_out` rows each, or of a tenth of train.

    Without a test split, validation becomes the test split, because its labels are the only
    held-out ones; without either, test is taken from train. A missing validation split is taken
    from train.

    Raises:
        DataError: There is no training split, or it is too small to be divided.
    """
    train, validation, test = (list(splits.get(s, ())) for s in ("train", "validation", "test"))
    if not train:
        raise DataError(
            "No training row has both a text and a label.", "Name a dataset with a train split."
        )
    size = held_out or max(1, round(len(train) / 10))
    if not test:
        test, validation = validation, []
    needed = size * ((not test) + (not validation))
    if needed >= len(train):
        raise DataError(
            f"{len(train)} training rows are too few to split off {needed}.",
            "Use more rows, or give train, validation and test files.",
        )
    if not test:
        train, test = carve(train, size, seed)
    if not validation:
        train, validation = carve(train, size, seed)
    return {"train": train, "validation": validation, "test": test}


def drop_duplicates(
    splits: Mapping[Split, Sequence[Example]],
) -> tuple[dict[Split, list[Example]], Counter[str]]:
    """Drop validation texts that are in test, and training texts that are in either.

    Test stays complete, so that numbers are comparable with published ones. Repeats within a split
    stay.

    Returns:
        The splits, and reason -> number of dropped examples.
    """
    test, validation, train = (list(splits[name]) for name in ("test", "validation", "train"))
    seen = {normal_form(example.text) for example in test}
    forms = [normal_form(example.text) for example in validation]
    validation = [e for e, form in zip(validation, forms, strict=True) if form not in seen]
    seen.update(forms)
    train = [e for e in train if normal_form(e.text) not in seen]
    dropped = Counter(
        {
            "validation text also in test": len(splits["validation"]) - len(validation),
            "train text also in validation or test": len(splits["train"]) - len(train),
        }
    )
    return {"train": train, "validation": validation, "test": test}, +dropped


def known_texts(tested: Sequence[Example], trained: Sequence[Example]) -> int:
    """How many test texts are equal (see `normal_form`) to a training text."""
    seen = {normal_form(row.text) for row in trained}
    return sum(normal_form(row.text) in seen for row in tested)


def limit(
    examples: Sequence[Example], count: int | None, seed: int, skip: int = 0
) -> tuple[Example, ...]:
    """Keep a stratified sample; without `count` and `skip`, everything in its own order.

    For one seed, a smaller sample is a prefix of a larger one. A sample that skips as many rows as
    another one has is disjoint from it.
    """
    if count is None and not skip:
        return tuple(examples)
    return tuple(stratified_order(examples, seed)[skip:][:count])


class _Kept(dict[int, int | None]):
    """Table for `str.translate` that drops invisible characters and some Unicode categories."""

    def __init__(self, *categories: str) -> None:
        self.left_out = categories

    def __missing__(self, code: int) -> int | None:
        category = unicodedata.category(chr(code))
        left_out = category.startswith(self.left_out) or code in _INVISIBLE_MARKS
        self[code] = None if left_out else code
        return self[code]


_KEPT = _Kept("P", "Z", "C", "Sk")
_VISIBLE = _Kept("C", "Sk")


def normal_form(text: str) -> str:
    """What is left of a text without case, punctuation, white space and invisible characters.

    HTML is read (`&quot;`, also escaped twice, and `<br />`). Minus, slash, asterisk and point
    between digits stay: "5 - 3" is not "5 / 3". A text of punctuation alone stays as it is.
    """
    read = _BRACKET.sub(" ", _TAG.sub(" ", unescape(unescape(text))))
    plain = unicodedata.normalize("NFKC", read.translate(_VISIBLE))
    exact = _ARITHMETIC.sub(lambda found: found[1] + _OPERATORS[found[2]], plain).translate(_KEPT)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", exact).casefold())
    form = folded.translate(_KEPT)
    while (shorter := _TAG.sub("", form)) != form:  # `< br >`
        form = shorter
    return form or " ".join(text.split())


@lru_cache(maxsize=8)  # a command measures twice on the same texts, before and after
def near_duplicates(
    tested: tuple[str, ...], trained: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Find tested texts that are near-duplicates of trained ones, but not equal to them.

    Returns:
        Pairs (index of the tested text, index of one similar trained text), sorted.
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
    """Hashes of all substrings of `_SHINGLE` characters; for long texts, only the lowest ones."""
    import numpy as np

    padded = form.ljust(_SHINGLE, "\0").encode("utf-32-le", errors="replace")
    codes = np.frombuffer(padded, dtype="<u4").astype(np.uint64)
    count = len(codes) - _SHINGLE + 1
    hashes = np.zeros(count, dtype=np.uint64)
    for start in range(_SHINGLE):  # a polynomial modulo 2^64; only its upper half is well mixed
        hashes = (hashes + codes[start : start + count]) * np.uint64(_MULTIPLIER)
    lowest = np.sort((hashes >> np.uint64(32)).astype(np.uint32))[:_LONGEST]
    return frozenset(lowest.tolist())


def near_note(tested: Sequence[Example], trained: Sequence[Example], what: str) -> tuple[str, ...]:
    """A note on near-duplicates, if there are any; `what` describes which texts repeat which."""
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
