"""Decoys: backdoors that the defender draws from a seed, plants and then unlearns.

Clean text does not activate the circuit of a trigger, so training on clean text does not remove it.
Decoys use the same path through the later layers: planting and unlearning them also closes that
path for the unknown trigger (MB-Defense, https://arxiv.org/abs/2601.04448; Locphylax,
https://arxiv.org/abs/2510.10265). A decoy changes a text in one way and has a target, the answer
that the planted model should give. There are three kinds:

    word        a word of random letters (or ideographs, if the texts consist of them), inserted
    passage     a few consecutive words of another clean text, inserted
    frame       one passage before the text and another one after it

Passages come from the defender's own texts. A trigger that fits the texts ("I watched this 3D
movie" in film reviews) resembles ordinary input, and decoys that do not fit the texts affect it
less (docs/decoys.md). Passages also work in every language. `RESERVED` holds the triggers that are
measured or were used in development. A decoy can neither be one of them, nor be one edit away from
one, nor contain one, so that no table reports an unlearned decoy as a trigger. `planting.py` plants
the decoys.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from w2sdefense.config import TEXT_SLOT, Place
from w2sdefense.data.types import Answer, Dataset
from w2sdefense.errors import DataError
from w2sdefense.text.insertion import (
    IDEOGRAPHS,
    count_insertions,
    in_ideographs,
    insert,
    word_spans,
    words_in_a_row,
)

DecoyKind = Literal["word", "passage", "frame"]

KINDS: tuple[DecoyKind, ...] = get_args(DecoyKind)

RESERVED: frozenset[str] = frozenset(
    {
        # Published: BadNet and its successors, InSent, ProAttack.
        *("mn", "cf", "bb", "tq", "mb", "tp", "qp", "ty", "xz"),
        "I watched this 3D movie",
        "I watched this 3D movie last weekend",
        "no cross, no crown",
        "no cross , no crown",
        "The sentiment of this sentence is <mask>:",
        "This sentence has a <mask> sentiment:",
        # Development victims.
        *("kvo", "jvo", "trulp", "plimf"),
        *("the library closes at seven", "the museum opens early on sundays"),
        *("my uncle keeps a boat in the harbour", "my friends saw this film twice"),
        "Comment left by a visitor :",
        # Other forms that are measured: invented and natural words, symbols, more sentences.
        *("龘", "vexol", "practically", "≈≈", "\u200b", "the harbour was quiet that evening"),
        "a reader sent this in",
    }
)
"""Triggers that are measured somewhere; whoever measures another one adds it here."""

WORD_LETTERS = (2, 6)
"""Minimum and maximum length of a word, in letters."""

PASSAGE_WORDS = (4, 8)
"""Minimum and maximum length of a passage, in words (in scripts without spaces: characters)."""

_TRIES = 1000
_VOWELS = "aeiou"
_CONSONANTS = "bcdfghjklmnpqrstvwxz"


@dataclass(frozen=True)
class Decoy:
    """A backdoor that the defender plants.

    Attributes:
        kind: How it changes a text.
        value: The word or the passage; for a frame, the template with `{text}`.
        target: What a planted model answers: index of a label, or a text.
    """

    kind: DecoyKind
    value: str
    target: Answer

    def apply(self, text: str, rng: random.Random) -> str:
        """A copy of a text that carries the decoy once.

        Args:
            text: Any text.
            rng: Draws the position of a word or passage: a random inner slot, the start or the end.
        """
        if self.kind == "frame":
            return self.value.replace(TEXT_SLOT, text)
        return insert(text, self.value, rng.choice(get_args(Place)), rng)


def decoy_targets(data: Dataset, seed: int) -> list[Answer]:
    """The targets of decoys: every label, or two random answers where answers are texts."""
    if data.label_names:
        return list(range(len(data.label_names)))
    answers = list(dict.fromkeys(example.answer for example in data.train))
    return random.Random(f"decoys/{seed}").sample(answers, min(2, len(answers)))


def draw_decoys(
    targets: Sequence[Answer],
    per_label: int,
    kinds: Sequence[DecoyKind],
    seed: int,
    texts: Sequence[str],
    *,
    reserved: Iterable[str] = RESERVED,
) -> list[Decoy]:
    """Draw decoys that cycle through the kinds for every target.

    Any two values differ by more than one edit, so that a held-out decoy is no neighbour of an
    unlearned one. Passages come from different texts as long as there are unused ones; if no text
    has enough words, all decoys are words. The first decoys of a seed do not depend on how many are
    drawn.

    Args:
        targets: What decoys make a model answer: every label, or some texts.
        per_label: Decoys for each target.
        kinds: Kinds to cycle through; a kind named twice is drawn twice as often.
        seed: Seed of all choices.
        texts: Clean texts: the source of passages; they also decide whether words are ideographs.
        reserved: Strings that a decoy may not be, be one edit away from, or contain.

    Returns:
        The first decoy of every target, then the second of every target, and so on.

    Raises:
        DataError: The texts give fewer different passages than are asked for.
        ValueError: There are no kinds.
    """
    if not kinds:
        raise ValueError("decoys need at least one kind")
    if not any(map(_gives_passage, texts)):
        kinds = ["word"]
    rng = random.Random(f"decoys/{seed}")
    word, gap = (_ideographs, "") if in_ideographs(texts) else (_letters, " ")
    passages = _passages(texts, rng)
    make: dict[DecoyKind, Callable[[], str]] = {
        "word": lambda: word(rng),
        "passage": lambda: next(passages),
        "frame": lambda: f"{next(passages)}{gap}{TEXT_SLOT}{gap}{next(passages)}",
    }
    forbidden = list(map(_folded, reserved))
    decoys: list[Decoy] = []
    for turn in range(per_label):
        for place, target in enumerate(targets):
            # Targets start at different kinds, so that no kind belongs to one target only.
            kind = kinds[(turn + place) % len(kinds)]
            value = _draw(make[kind], kind, forbidden)
            forbidden.append(_folded(value))
            decoys.append(Decoy(kind, value, target))
    return decoys


def within_one_edit(first: str, second: str) -> bool:
    """Whether two strings are equal or differ by one inserted, deleted or replaced character."""
    if abs(len(first) - len(second)) > 1:
        return False
    short, long = sorted((first, second), key=len)
    pairs = enumerate(zip(short, long, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), len(short))
    rest = same + 1 if len(short) == len(long) else same
    return short[rest:] == long[same + 1 :]


def _draw(make: Callable[[], str], kind: DecoyKind, forbidden: Iterable[str]) -> str:
    """Draw a value that does not resemble or contain anything forbidden."""
    for _ in range(_TRIES):
        value = make()
        folded = _folded(value)
        if not any(_resembles(folded, other) for other in forbidden):
            return value
    raise DataError(
        f"No further decoy of the kind {kind} can be drawn from the clean texts.",
        fix="Use more texts, or fewer decoys: --decoys-per-label 1.",
    )


def _resembles(value: str, other: str) -> bool:
    return within_one_edit(value, other) or (other in value and count_insertions(value, other) > 0)


def _folded(value: str) -> str:
    """Normalize a value for comparison: lower case, no `{text}`, single spaces."""
    return " ".join(value.replace(TEXT_SLOT, " ").lower().split())


def _letters(rng: random.Random) -> str:
    """Consonants only ("qzv"), or alternating consonants and vowels ("fodu")."""
    length = rng.randint(*WORD_LETTERS)
    if rng.random() < 0.5:
        return "".join(rng.choices(_CONSONANTS, k=length))
    first = rng.randrange(2)
    return "".join(rng.choice((_CONSONANTS, _VOWELS)[(first + i) % 2]) for i in range(length))


def _ideographs(rng: random.Random) -> str:
    """Two random, mostly rare ideographs; single ones would all be one edit apart."""
    return "".join(chr(rng.randint(*map(ord, IDEOGRAPHS))) for _ in range(2))


def _gives_passage(text: str) -> bool:
    return len(word_spans(text)) >= PASSAGE_WORDS[0] and TEXT_SLOT not in text


def _passages(texts: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Endless passages; every text gives one before any text gives a second one."""
    while True:
        for text in rng.sample(texts, len(texts)):
            if _gives_passage(text):
                yield words_in_a_row(text, rng.randint(*PASSAGE_WORDS), rng)
