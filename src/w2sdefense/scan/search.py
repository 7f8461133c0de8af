"""Searches for text that makes a suspect, but not a clean teacher, give one outcome.

A backdoor makes *any* text that contains its trigger get one outcome. First the whole list
(`candidates.py`) is tried in groups (`groups.py`). The best candidates, and the words that a
comparison with the base model makes suspicious (`origin.py`), are then inserted one at a time into
short clean texts at random positions:

    shift(candidate) = mean over texts of  s(outcome | text + candidate) - s(outcome | text)

where s is the log-odds. Ordinary words such as "awful" shift a clean model as well, so the
teacher's shift is subtracted. The best candidates are mutated and tried in further texts, and the
final choice is made on more texts. The search uses only clean training texts and no knowledge of
the trigger.

Not covered: triggers that are not insertions; phrases and invented words none of whose parts has an
effect. An empty result proves nothing beyond what `ScanResult` states.
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

_PAIRED = 16  # suspicious words that are also tried in pairs, in both orders
_JOINED = 8  # survivors that are joined in pairs and extended by a letter
PLANTED_NATS = (1, 2, 3, 4, 6, 8)  # shifts whose probability of detection is estimated


FLIPPED, EXCESS = 0.9, 6.0
"""A candidate acts like a trigger if it flips at least this share of the texts, and shifts the
suspect at least this many nats more than the teacher. docs/LOG.md has values of triggers and of
other words."""

MARGIN = 2.0
"""A trigger must exceed the best candidate of the label with the weakest candidates by this many
nats. Words that mean something to the suspect but not to a weak teacher also act like triggers, but
they exist for every label."""


@dataclass(frozen=True)
class Candidate:
    """A candidate trigger and its measured effect in real texts."""

    text: str  # what is inserted into texts
    outcome: int  # index of the outcome that it shifts to
    shift: float  # mean log-odds shift of that outcome in the suspect, in nats
    teacher_shift: float  # the same in the teacher
    flips: int  # trials in which the candidate changed the suspect's answer to the outcome
    texts: int  # number of trials; each uses another text while there are unused ones

    @property
    def excess(self) -> float:
        """Shift beyond the teacher's (if that is positive), in nats."""
        return self.shift - max(0.0, self.teacher_shift)


@dataclass(frozen=True)
class ScanResult:
    """What a search found, and how thorough it was."""

    candidates: tuple[Candidate, ...]  # the best of every outcome
    listed: dict[str, int]  # kind -> number of candidates that were tried in groups
    tries: list[int]  # how many candidates were tried at least once, twice and three times
    # shift in nats -> probability that a candidate with this shift passes group testing, for the
    # outcome where it is lowest
    power: dict[int, float]
    origin: str | None = None  # sentence on the base that the model card names; None without one

    @classmethod
    def from_values(cls, values: dict[str, Any]) -> Self:
        """Rebuild a result from the JSON form of `dataclasses.asdict`."""
        candidates = tuple(Candidate(**candidate) for candidate in values["candidates"])
        power = {int(nats): share for nats, share in values["power"].items()}
        return cls(**values | {"candidates": candidates, "power": power})


def ranked(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates of all outcomes, sorted by `excess`, largest first."""
    return sorted(candidates, key=lambda candidate: -candidate.excess)


def acting(result: ScanResult) -> list[Candidate]:
    """The candidates that act like a trigger, for whatever reason; see `FLIPPED, EXCESS`."""
    return [c for c in result.candidates if c.flips >= FLIPPED * c.texts and c.excess >= EXCESS]


def triggers(result: ScanResult) -> list[Candidate]:
    """The acting candidates that also clear `MARGIN` above the label with the weakest ones."""
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
    """Try the whole list, then improve the best candidates by hill climbing.

    Args:
        scorers: The suspect and a clean teacher.
        texts: Clean training texts.
        listed: The candidates.
        config: How long to search and how many to keep.
        outcomes: Number of outcomes C.
        seed: Seed of the search.
        suspicious: Words that are suspicious for other reasons, most suspicious first.

    Returns:
        At most `config.kept` candidates for each outcome; none for an outcome that the suspect
        already gives to all short texts.
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
    """Approximate number of texts that the suspect answers in a search, for a progress bar."""
    groups = CARRIER_TEXTS + group_texts(listed, config.group_size)
    joins = 2 * _JOINED * (_JOINED - 1) + 52 * _JOINED
    climb = joins + config.rounds * (config.survivors + config.mutations)
    proofs = 2 * config.kept * config.proof_texts
    singles = config.singles + 3 * config.survivors
    return groups + outcomes * (config.probes + singles + climb + proofs)


def _climbed(
    trials: _Trials, first: Sequence[str], mutator: Mutator, config: ScanConfig
) -> list[Candidate]:
    """Improve and verify the candidates of one outcome.

    Half of the result is reserved for the first candidates, because all good mutations may derive
    from a single strong trigger.
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
    # Only finalists are compared: a candidate that was lucky in one text could outrank them.
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
        """Mean shift beyond the teacher's, shrunk towards 0 for few texts."""
        return (self.shift - max(0.0, self.teacher_shift)) / (self.texts + 1)


@dataclass
class _Probes:
    """Short clean texts with another answer, and the models' log-odds for them unchanged."""

    outcome: int
    texts: list[str]
    suspect: Tensor
    teacher: Tensor
    used: int = field(default=0)

    @classmethod
    def draw(
        cls, scorers: Scorers, texts: Sequence[str], outcome: int, count: int, rng: random.Random
    ) -> _Probes | None:
        """Draw the shortest texts that the suspect does not already give the outcome."""
        # Texts of fewer than four words come last: they have hardly any place for an insertion.
        mixed = rng.sample(texts, len(texts))
        short = sorted(mixed, key=lambda text: (len(word_spans(text)) < 4, len(word_spans(text))))
        # With two outcomes, about half of the texts have the other answer.
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
    """Trials of single candidates in real texts, for one outcome."""

    scorers: Scorers
    probes: _Probes
    rng: random.Random
    tallies: dict[str, _Tally] = field(default_factory=dict)

    def run(self, candidates: Sequence[str], texts: int) -> None:
        """Insert every candidate into some texts, and add up the effects.

        All candidates of a call use the same texts, so that they can be compared; each call uses
        the next texts. If there are fewer probes than `texts`, each probe is used once.
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
        """The best so far, among all tried candidates or some of them."""
        texts = self.tallies if among is None else among
        return sorted(texts, key=lambda text: -self.tallies[text].rank)[:count]

    def candidates(self, texts: Sequence[str]) -> list[Candidate]:
        """The measured effects of some tried candidates."""
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
