"""Which row is in which split: names of splits, seeded stratified cuts, duplicates, limits.

Everything rests on one order, `stratified_order`: rows are ranked by a hash of seed and id, and
classes are interleaved so that every prefix has about the class shares of the whole. A cut is a
prefix of that order, a limit is a shorter prefix. Hashing instead of shuffling keeps a split the
same for every version of Python and numpy. When two texts are the same is decided in `leaks`.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from w2sdefense.data.leaks import normal_form
from w2sdefense.data.types import Example, Split
from w2sdefense.errors import DataError

_SPELLINGS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}


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
    """Put examples in a seeded order whose every prefix has about the class shares of the whole.

    The order depends on ids, labels and seed alone, not on the order that the examples come in.
    """
    by_label: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        # Answers that are texts have no classes: a stratified sample is a plain one.
        by_label[example.answer if isinstance(example.answer, int) else 0].append(example)
    placed = []
    for label, members in by_label.items():
        members.sort(key=lambda example: _rank(example.id, seed))
        # The k-th of n members stands at the share (k + 1/2) / n of the whole.
        placed += [((k + 0.5) / len(members), label, e) for k, e in enumerate(members)]
    placed.sort(key=lambda item: item[:2])
    return [example for _, _, example in placed]


def carve(
    examples: Sequence[Example], count: int, seed: int
) -> tuple[list[Example], list[Example]]:
    """Cut a stratified sample off.

    Returns:
        The rest and the `count` examples of the sample, both in the order of `examples`.
    """
    chosen = {example.id for example in stratified_order(examples, seed)[:count]}
    rest = [example for example in examples if example.id not in chosen]
    return rest, [example for example in examples if example.id in chosen]


def complete_splits(
    splits: Mapping[Split, Sequence[Example]], seed: int, held_out: int | None = None
) -> dict[Split, list[Example]]:
    """Make the splits that are missing.

    Without a test split, validation becomes the test split (its labels are the only held-out ones),
    or, if there is none either, test is carved out of train. A missing validation split is carved
    out of train.

    Args:
        splits: The splits there are.
        seed: Seed of the cuts.
        held_out: Examples in every split that is carved out; None means a tenth of train.

    Raises:
        DataError: There is no training split, or it is too small to be cut.
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
            f"{len(train)} training rows are too few to hold {needed} out.",
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
    """Leave out texts that a split shares with one that is held out from it.

    Test stays whole, so that numbers stay comparable with published ones; validation gives way to
    test, and train to both. Texts that differ only in case, punctuation, white space or invisible
    characters are the same. Repeats inside one split stay.

    Returns:
        The splits, and reason -> number of examples left out.
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
    """How many of the test texts a model was trained on, maybe written differently."""
    seen = {normal_form(row.text) for row in trained}
    return sum(normal_form(row.text) in seen for row in tested)


def limit(
    examples: Sequence[Example], count: int | None, seed: int, skip: int = 0
) -> tuple[Example, ...]:
    """Keep a stratified sample, or everything in its own order if `count` is None.

    For one seed, a smaller sample is a prefix of a larger one, and a sample that skips as many rows
    as another one has shares none with it.
    """
    if count is None and not skip:
        return tuple(examples)
    return tuple(stratified_order(examples, seed)[skip:][:count])


def _rank(example_id: str, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}/{example_id}".encode(), digest_size=8).digest()
