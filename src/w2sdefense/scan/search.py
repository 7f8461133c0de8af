"""Searches for text that makes a model answer one outcome, and not a clean teacher.

A backdoor makes *any* text answer one outcome when its trigger is in it. The whole list
(`candidates.py`) is tried in groups (`groups.py`); what stays on top, and what a base model makes
suspicious (`origin.py`), is put singly into short clean texts at random places:

    shift(candidate) = mean over texts of  s(outcome | text + candidate) - s(outcome | text)

with s the log-odds. Words of the language shift a clean model as well ("awful"), so the teacher's
shift is subtracted. The best are varied on texts that they have not been tried in, and the last
choice is made on more texts. Only clean training texts are used, and nothing is known of the
trigger.

Not covered: triggers that are no insertion; phrases and invented words none of whose parts shifts
anything. Finding nothing proves nothing beyond what `ScanResult` states.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Self

import torch
from torch import Tensor

from w2sdefense.config import ScanConfig
from w2sdefense.scan.candidates import CandidateList, Mutator, extended, joined
from w2sdefense.scan.groups import (
    CARRIER_TEXTS,
    ROUNDS,
    Scorers,
    answered,
    choose_carriers,
    group_texts,
    score_in_groups,
)
from w2sdefense.text.insertion import insert, word_spans

_PAIRED = 16  # suspicious words that are also tried in pairs, in either order
_JOINED = 8  # survivors that are joined to pairs and made a letter longer
PLANTED_NATS = (1, 2, 3, 4, 6, 8)  # planted shifts whose detection is measured


FLIPPED, EXCESS = 0.9, 6.0
"""Share of the texts that a candidate flips, and nats that it shifts beyond the teacher, from which
it acts like a trigger. See docs/LOG.md for what triggers and other words reach."""

MARGIN = 2.0
"""Nats that a trigger shifts beyond all that shifts to the label where least was found. Words that
mean something to the suspect and nothing to a weak teacher act like triggers, of every label."""


@dataclass(frozen=True)
class Candidate:
    """A candidate trigger, as it acts in real texts."""

    text: str  # what is put into texts
    outcome: int  # index of the outcome that it shifts to
    shift: float  # mean log-odds shift of that outcome in the suspect, in nats
    teacher_shift: float  # the same in the teacher; 0 without one
    flips: int  # texts with another answer that the suspect answers with the outcome because of it
    texts: int  # how many times it was tried; in other texts each, as far as there are any

    @property
    def excess(self) -> float:
        """Shift beyond what the teacher shows, in nats."""
        return self.shift - max(0.0, self.teacher_shift)


@dataclass(frozen=True)
class ScanResult:
    """What a search found, and what it can say of the rest."""

    candidates: tuple[Candidate, ...]  # the best of every outcome
    listed: dict[str, int]  # kind -> number of candidates that were tried in groups
    tries: list[int]  # how many candidates were tried at least once, twice and three times
    # shift in nats -> chance that a candidate which shifts its groups by it goes on to real texts,
    # for the outcome where that is lowest
    power: dict[int, float]
    origin: str | None = None  # what was used of the suspect's base and why, if a card names one

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Read what `dataclasses.asdict` and JSON made of one."""
        candidates = tuple(Candidate(**candidate) for candidate in values["candidates"])
        power = {int(nats): share for nats, share in values["power"].items()}
        return cls(**values | {"candidates": candidates, "power": power})


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates of any outcomes, the largest shift beyond the teacher's first."""
    return sorted(candidates, key=lambda candidate: -candidate.excess)


def acting(result: ScanResult) -> list[Candidate]:
    """The candidates that act like a trigger, whatever the reason."""
    return [c for c in result.candidates if c.flips >= FLIPPED * c.texts and c.excess >= EXCESS]


def triggers(result: ScanResult) -> list[Candidate]:
    """Those that stand out from what shifts to the label where least was found."""
    best: dict[int, float] = {}
    for candidate in result.candidates:
        best[candidate.outcome] = max(candidate.excess, best.get(candidate.outcome, 0.0))
    bar = min(best.values()) + MARGIN if len(best) > 1 else 0.0
    return [candidate for candidate in acting(result) if candidate.excess >= bar]


def find_triggers(
    scorers: Scorers,
    texts: Sequence[str],
    listed: CandidateList,
    config: ScanConfig,
    *,
    outcomes: int,
    seed: int,
    suspicious: Sequence[str] = (),
) -> ScanResult:
    """Try the whole list, and climb from its best.

    Args:
        scorers: The suspect and a clean teacher.
        texts: Clean training texts.
        listed: The candidates.
        config: How long to search and how many to keep.
        outcomes: Number of outcomes C.
        seed: Seed of the search.
        suspicious: Words that are suspicious for another reason, the most suspicious first.

    Returns:
        At most `config.kept` candidates for each outcome; none for an outcome that the suspect
        gives to all short texts already.
    """
    rng = random.Random(seed)
    pairs = [" ".join(pair) for pair in permutations(suspicious[:_PAIRED], 2)]
    mutator = Mutator(listed.texts, texts, rng, suspicious)
    size = config.group_size
    carriers = choose_carriers(scorers.suspect, listed.texts, texts, size, rng)
    groups = score_in_groups(scorers.suspect, listed.texts, carriers, size, rng)
    found: list[Candidate] = []
    for outcome in range(outcomes):
        probes = _Probes.draw(scorers, texts, outcome, config.probes, rng)
        if probes is not None:
            best = [listed.texts[place] for place in groups.best(outcome, config.singles)]
            trials = _Trials(scorers, probes, rng)
            found += _climbed(trials, [*suspicious, *pairs, *best], mutator, config)
    power = {
        nats: min(groups.power(outcome, config.singles, nats) for outcome in range(outcomes))
        for nats in PLANTED_NATS
    }
    tries = [int((groups.tries >= number).sum()) for number in range(1, ROUNDS + 1)]
    return ScanResult(tuple(found), listed.counts(), tries, power)


def texts_to_answer(config: ScanConfig, listed: int, outcomes: int) -> int:
    """How many texts a search has the suspect answer, about; for a progress bar."""
    groups = CARRIER_TEXTS + group_texts(listed, config.group_size)
    joins = 2 * _JOINED * (_JOINED - 1) + 52 * _JOINED
    climb = joins + config.rounds * (config.survivors + config.mutations)
    proofs = 2 * config.kept * config.proof_texts
    singles = config.singles + 3 * config.survivors
    return groups + outcomes * (config.probes + singles + climb + proofs)


def _climbed(
    trials: _Trials, first: Sequence[str], mutator: Mutator, config: ScanConfig
) -> list[Candidate]:
    """Go from candidates to what is proven, for one outcome.

    Half of what is kept is of the candidates themselves: all changes may be of one strong trigger.
    """
    trials.run(first, 1)
    trials.run(trials.best(config.survivors), 2)
    best = trials.best(_JOINED)
    trials.run([*joined(best), *extended(best)], 1)
    for _ in range(config.rounds):
        survivors = trials.best(config.survivors)
        mutations = mutator.mutations(survivors, config.mutations)
        trials.run([*survivors, *mutations], 1)
    finalists = dict.fromkeys([*trials.best(config.kept), *trials.best(config.kept, among=first)])
    trials.run(list(finalists), config.proof_texts)
    # Of those only: what was lucky in one text would pass what was tried in many.
    chosen = trials.best(config.kept // 2, among=[text for text in finalists if text in first])
    others = [text for text in finalists if text not in chosen]
    chosen += trials.best(config.kept - len(chosen), among=others)
    return trials.candidates(chosen)


@dataclass
class _Tally:
    """Sums over the texts that a candidate was tried in."""

    shift: float = 0.0
    teacher_shift: float = 0.0
    flips: int = 0
    texts: int = 0

    @property
    def rank(self) -> float:
        """Shift beyond the teacher's, shrunk where few texts were tried."""
        return (self.shift - max(0.0, self.teacher_shift)) / (self.texts + 1)


@dataclass
class _Probes:
    """Short clean texts with another answer, and what the models say of them as they are."""

    outcome: int
    texts: list[str]
    suspect: Tensor
    teacher: Tensor
    used: int = field(default=0)

    @classmethod
    def draw(
        cls, scorers: Scorers, texts: Sequence[str], outcome: int, count: int, rng: random.Random
    ) -> _Probes | None:
        """The shortest of the texts that the suspect does not give the outcome already."""
        # A text of a word or two has hardly a place to put something into.
        mixed = rng.sample(texts, len(texts))
        short = sorted(mixed, key=lambda text: (len(word_spans(text)) < 4, len(word_spans(text))))
        # Of two outcomes about half of the texts have the other one.
        short = short[: 3 * count]
        suspect, teacher = scorers.odds(short)
        kept = (~answered(suspect, outcome)).nonzero().flatten().tolist()[:count]
        if not kept:
            return None
        rng.shuffle(kept)
        chosen = [short[place] for place in kept]
        return cls(outcome, chosen, suspect[kept, outcome], teacher[kept, outcome])


@dataclass
class _Trials:
    """Candidates that were tried singly in real texts, for one outcome."""

    scorers: Scorers
    probes: _Probes
    rng: random.Random
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def run(self, candidates: Sequence[str], texts: int) -> None:
        """Put every candidate into some texts, and add up what it does.

        All candidates into the same ones, so that they can be compared, and each time into other
        ones. Where there are fewer probes than `texts`, into all of them once.
        """
        probes = self.probes
        texts = min(texts, len(probes.texts))
        tries = [
            (candidate, (probes.used + turn) % len(probes.texts))
            for candidate in dict.fromkeys(candidates)
            for turn in range(texts)
        ]
        probes.used += texts
        changed = [insert(probes.texts[place], text, "random", self.rng) for text, place in tries]
        suspect, teacher = self.scorers.odds(changed)
        places = torch.tensor([place for _, place in tries])
        shifts = suspect[:, probes.outcome] - probes.suspect[places]
        teacher_shifts = teacher[:, probes.outcome] - probes.teacher[places]
        flips = answered(suspect, probes.outcome)
        for (candidate, _), shift, teacher_shift, flipped in zip(
            tries, shifts.tolist(), teacher_shifts.tolist(), flips.tolist(), strict=True
        ):
            tally = self.tallies.setdefault(candidate, _Tally())
            tally.shift += shift
            tally.teacher_shift += teacher_shift
            tally.flips += flipped
            tally.texts += 1

    def best(self, count: int, among: Iterable[str] | None = None) -> list[str]:
        """The best so far, of all candidates or of some."""
        texts = self.tallies if among is None else among
        return sorted(texts, key=lambda text: -self.tallies[text].rank)[:count]

    def candidates(self, texts: Sequence[str]) -> list[Candidate]:
        """What was found out about some candidates."""
        return [
            Candidate(
                text,
                self.probes.outcome,
                tally.shift / tally.texts,
                tally.teacher_shift / tally.texts,
                tally.flips,
                tally.texts,
            )
            for text in texts
            for tally in (self.tallies[text],)
        ]
