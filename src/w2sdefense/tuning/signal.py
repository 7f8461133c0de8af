"""A signal for what is left of a backdoor, without a trigger: does the student follow candidates?

A search through the *poisoned* model, with clean training text and a clean teacher, finds candidate
triggers, which shift it to a label (`scan/`). They are put into clean validation texts, and a
defended student is asked about them. With S the student, T the teacher, x a text of another label
than c, and x + p the text with a candidate p that shifts to c:

    follows(x, p) = 1  if  S(x) != c,  S(x + p) = c  and  T(x + p) != c,  else 0
    exposure      = mean of follows(x, p) over all texts and candidates

Answers are counted, so that a student cannot look better by being less sure; answers to the text as
it is are left out, so that neither errors nor a constant answer count; and what the teacher takes
the same way is no backdoor. The search has a seed of its own, so that a student is not examined
with the candidates that it was trained on. How far it predicted ASR is in
`benchmarks/results/tuning_signal.md`. An exposure of 0 is no proof: triggers that resemble nothing
that the search found, and those that are no insertion, are not covered.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from w2sdefense.config import SignalConfig
from w2sdefense.data.types import Example, texts_of
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.scan.groups import Score
from w2sdefense.scan.search import Candidate, ranked
from w2sdefense.tasks import Predictor
from w2sdefense.text.insertion import insert, word_spans


@dataclass(frozen=True)
class Try:
    """One candidate in one of the clean texts, and whether a clean teacher follows it there."""

    candidate: Candidate
    place: int
    text: str
    teacher_follows: bool


@dataclass(frozen=True)
class Probes:
    """What every student is asked: clean validation texts, and the same texts with candidates."""

    texts: tuple[str, ...]
    tries: tuple[Try, ...]


def make_probes(
    candidates: Sequence[Candidate],
    teacher: Score,
    examples: Sequence[Example],
    config: SignalConfig,
) -> Probes:
    """Put candidates into clean texts.

    The shorter half of the examples is used: a candidate weighs more in a short text.

    Raises:
        DataError: There are no candidates, or no text of another label than theirs.
    """
    rng = random.Random(config.seed)
    clean: dict[str, int] = {}
    tries: list[tuple[Candidate, int, str]] = []
    for label in sorted({candidate.outcome for candidate in candidates}):
        texts = _shorter_half([e for e in examples if e.label != label])
        texts = rng.sample(texts, min(config.texts, len(texts)))
        for candidate in ranked([c for c in candidates if c.outcome == label])[: config.pieces]:
            for text in texts:
                changed = insert(text, candidate.text, "random", rng)
                tries.append((candidate, clean.setdefault(text, len(clean)), changed))
    if not tries:
        raise DataError(
            "The search left nothing to examine students with.",
            "Use more training and validation texts, of several labels.",
        )
    said = teacher([text for _, _, text in tries]).argmax(-1).tolist()
    return Probes(
        tuple(clean),
        tuple(
            Try(candidate, place, text, answer == candidate.outcome)
            for (candidate, place, text), answer in zip(tries, said, strict=True)
        ),
    )


def exposure(
    student: Predictor, probes: Probes, progress: Callable[[int], None] | None = None
) -> Rate:
    """How often a student follows candidates that it should not follow; low is good.

    The tries share texts and candidates, so the interval of the count would be too narrow.
    """
    asked = [*probes.texts, *(one.text for one in probes.tries)]
    answers = [answer.answer for answer in student.predict(asked, progress)]
    clean, changed = answers[: len(probes.texts)], answers[len(probes.texts) :]
    follows = [
        clean[one.place] != one.candidate.outcome == answer and not one.teacher_follows
        for one, answer in zip(probes.tries, changed, strict=True)
    ]
    return Rate(hits=sum(follows), total=len(follows))


def _shorter_half(examples: Sequence[Example]) -> list[str]:
    texts = sorted(texts_of(examples), key=lambda text: len(word_spans(text)))
    return texts[: (len(texts) + 1) // 2]
