"""Searches for pieces of text that pull a model to one answer, and not a clean teacher.

A backdoor makes *any* text answer one label when its trigger is in it, and it does so by degrees:
what resembles the trigger pulls a little. So the search climbs. It puts pieces into short clean
texts of other labels, measures how far each pulls the log-odds of the label, keeps the best, and
tries small changes to them on texts that they have not seen yet. Natural words of the label pull as
well ("awful"), and a clean teacher feels those: what it feels is taken off. Only clean training
texts are looked at, and nothing is known of the trigger.

    pull(piece) = mean over texts of  logit p(label | text + piece) - logit p(label | text)

What this does not cover: triggers that are no insertion; triggers far from everything that is drawn
at first, which pull by nothing until they are complete. Finding nothing proves nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from w2sdefense.config import ScanConfig
from w2sdefense.data.types import Example, texts_of
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.scan.pieces import PieceMaker
from w2sdefense.text.insertion import insert, word_spans

Answer = Callable[[Sequence[str]], Tensor]
"""Answers texts with the probabilities of their labels, (N, C)."""

Progress = Callable[[int], None]

_SURE = 1e-4
"""Probabilities closer to 0 or 1 than this say nothing more."""


@dataclass(frozen=True)
class Suspect:
    """A piece of text that may be a trigger.

    Attributes:
        piece: The text.
        target: The label that it pulls to.
        pull: Mean change of the log-odds of that label in the student, in nats.
        teacher_pull: The same in the teacher; 0 without one.
        flips: Texts of other labels that the student answers with the target because of it.
        texts: How many times it was tried; in other texts each, as far as there are probes.
    """

    piece: str
    target: int
    pull: float
    teacher_pull: float
    flips: int
    texts: int

    @property
    def suspicion(self) -> float:
        """What it does to the student beyond what it would mean to a clean model, in nats."""
        return self.pull - max(0.0, self.teacher_pull)


def ranked(suspects: Sequence[Suspect]) -> list[Suspect]:
    """Suspects of any labels, the most suspicious first."""
    return sorted(suspects, key=lambda suspect: -suspect.suspicion)


@dataclass
class _Score:
    """Sums over the texts that a piece was tried in."""

    pull: float = 0.0
    teacher_pull: float = 0.0
    flips: int = 0
    texts: int = 0

    @property
    def rank(self) -> float:
        """Suspicion, taken with a grain of salt where few texts were tried."""
        teacher = max(0.0, self.teacher_pull)
        return (self.pull - teacher) / (self.texts + 1)


@dataclass
class _Probes:
    """Short texts of other labels than the target, and what the models say of them as they are."""

    target: int
    texts: list[str]
    student: Tensor
    teacher: Tensor | None
    used: int = field(default=0)


def find_suspects(
    student: Answer,
    teacher: Answer | None,
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    config: ScanConfig,
    *,
    labels: int,
    seed: int,
    moved: Sequence[int] = (),
    progress: Progress | None = None,
) -> list[Suspect]:
    """The most suspicious pieces for every label.

    Args:
        student: The model under suspicion.
        teacher: A clean model of the same labels, or None: natural words are then suspects, too.
        examples: Clean training examples.
        tokenizer: The student's.
        config: How long to search and how many to keep.
        labels: Number of labels C.
        seed: Seed of the search.
        moved: Tokens that are suspicious for another reason, the most suspicious first.
        progress: Told how many texts were answered by the student since the last call.

    Returns:
        At most `config.suspects` for each label, the most suspicious first; none for a label that
        the student answers all short texts of other labels with.
    """
    rng = random.Random(seed)
    maker = PieceMaker(texts_of(examples), tokenizer, rng, moved)
    first = maker.first(config.first)
    found: list[Suspect] = []
    for target in range(labels):
        probes = _probes(student, teacher, examples, target, config, rng)
        if probes is None:
            continue
        search = _Search(student, teacher, probes, rng, progress)
        search.try_pieces(first, 1)
        for _ in range(config.rounds):
            best = search.best(config.parents)
            search.try_pieces([*best, *maker.children(best, config.children)], 1)
        finalists = search.best(2 * config.suspects)
        search.try_pieces(finalists, config.proof_texts)
        # Of those only: what was lucky in one text would pass what was tried in many.
        found += search.suspects(search.best(config.suspects, among=finalists))
    return found


def texts_to_answer(config: ScanConfig, labels: int) -> int:
    """How many texts a search has the student answer, for a progress bar; rather too many."""
    rounds = config.rounds * (config.parents + config.children)
    proofs = 2 * config.suspects * config.proof_texts
    return labels * (config.probes + config.first + rounds + proofs)


@dataclass
class _Search:
    """The search for one label."""

    student: Answer
    teacher: Answer | None
    probes: _Probes
    rng: random.Random
    progress: Progress | None
    scores: dict[str, _Score] = field(default_factory=dict)

    def try_pieces(self, pieces: Sequence[str], texts: int) -> None:
        """Put every piece into some texts, and add up what it does.

        All pieces into the same ones, so that they can be compared, and each time into other ones
        than the last time. Where there are fewer probes than `texts`, into all of them once.
        """
        texts = min(texts, len(self.probes.texts))
        tries = [
            (piece, (self.probes.used + turn) % len(self.probes.texts))
            for piece in dict.fromkeys(pieces)
            for turn in range(texts)
        ]
        self.probes.used += texts
        changed = [
            insert(self.probes.texts[place], piece, "random", self.rng) for piece, place in tries
        ]
        places = torch.tensor([place for _, place in tries])
        answers = self.student(changed)
        follows = answers.argmax(-1) == self.probes.target
        odds = _log_odds(answers, self.probes.target)
        pulls = odds - self.probes.student[places]
        teacher_pulls = torch.zeros_like(pulls)
        if self.teacher is not None and self.probes.teacher is not None:
            said = _log_odds(self.teacher(changed), self.probes.target)
            teacher_pulls = said - self.probes.teacher[places]
        for (piece, _), pull, teacher_pull, flipped in zip(
            tries, pulls.tolist(), teacher_pulls.tolist(), follows.tolist(), strict=True
        ):
            score = self.scores.setdefault(piece, _Score())
            score.pull += pull
            score.teacher_pull += teacher_pull
            score.flips += flipped
            score.texts += 1
        if self.progress is not None:
            self.progress(len(changed))

    def best(self, count: int, among: Iterable[str] | None = None) -> list[str]:
        """The most suspicious pieces so far, of all or of some."""
        pieces = self.scores if among is None else among
        return sorted(pieces, key=lambda piece: -self.scores[piece].rank)[:count]

    def suspects(self, pieces: Sequence[str]) -> list[Suspect]:
        """What was found out about some pieces."""
        return [
            Suspect(
                piece,
                self.probes.target,
                score.pull / score.texts,
                score.teacher_pull / score.texts,
                score.flips,
                score.texts,
            )
            for piece in pieces
            for score in (self.scores[piece],)
        ]


def _probes(
    student: Answer,
    teacher: Answer | None,
    examples: Sequence[Example],
    target: int,
    config: ScanConfig,
    rng: random.Random,
) -> _Probes | None:
    """Short texts of other labels that the student does not answer with the target already."""
    others = [e.text for e in examples if e.label != target]
    rng.shuffle(others)
    # A text of a word or two has hardly a place to put something into.
    short = sorted(others, key=lambda text: (len(word_spans(text)) < 4, len(word_spans(text))))
    texts = short[: config.probes]
    if not texts:
        return None
    answers = student(texts)
    odds = _log_odds(answers, target)
    kept = [place for place, answer in enumerate(answers.argmax(-1).tolist()) if answer != target]
    if not kept:
        return None
    rng.shuffle(kept)
    texts = [texts[place] for place in kept]
    clean = None if teacher is None else _log_odds(teacher(texts), target)
    return _Probes(target, texts, odds[kept], clean)


def _log_odds(probabilities: Tensor, target: int) -> Tensor:
    """Logit p(target), (N,), of probabilities (N, C)."""
    return probabilities[:, target].double().clamp(_SURE, 1 - _SURE).logit()
