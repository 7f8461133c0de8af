"""Group testing: a dozen candidates stand in one text, so a long list is tried whole.

A trigger decides the answer whatever else the text says, so it decides that of its group. All
candidates are divided at random into groups; a group stands between the beginning of one clean text
and the end of another (its carrier) and is scored by

    shift(group, c) = s(group, c) - median over groups of s(., c)

with s the suspect's log-odds of outcome c. The best of each outcome go into the next round, with
new groups and another carrier, and keep the *lowest* shift of their groups, because only a trigger
lifts all of them. (Adaptive group testing, after Dorfman 1943, "The detection of defective members
of large populations".) A clean teacher is not asked: what it says of a dozen stray words is noise.

How strong a trigger must be to get through is measured and not assumed: see `power`.

A task supplies `Score`; for a classifier the outcomes are its labels. Nothing else in `scan/` knows
what an outcome is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2sdefense.text.insertion import word_spans

ROUNDS = 3  # the whole list, then what is left of it twice
SHARE = 0.25  # share of a round that the next one tries, over all outcomes

_BEFORE, _AFTER = 2, 6
"""Words of a carrier. A text that ends with the group shows much less of a trigger."""

_DRAWN, _FILLINGS = 32, 3  # carriers that are drawn, and groups that each is judged by

CARRIER_TEXTS = _DRAWN * _FILLINGS

Score = Callable[[Sequence[str]], Tensor]  # texts to the log-probabilities of the outcomes, (N, C)
SURE = 10.0  # log-odds beyond this, in nats, say nothing more


def log_odds(log_probabilities: Tensor) -> Tensor:
    """Log-odds in nats, at most `SURE` either way, of log-probabilities of the same shape."""
    values = log_probabilities.double()
    return (values - (-torch.expm1(values)).log()).clamp(-SURE, SURE)


@dataclass(frozen=True)
class Scorers:
    """The suspect beside a clean model of the same outcomes, if there is one."""

    suspect: Score
    teacher: Score | None = None

    def odds(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Log-odds by the suspect and by the teacher, (N, C) each; zeros without a teacher."""
        suspect = log_odds(self.suspect(texts))
        if self.teacher is None:
            return suspect, torch.zeros_like(suspect)
        return suspect, log_odds(self.teacher(texts))


def answered(odds: Tensor, outcome: int) -> Tensor:
    """Whether texts get an outcome, (N,), by their log-odds (N, C); a single one from 0 on."""
    return odds.argmax(-1) == outcome if odds.shape[1] > 1 else odds[:, outcome] > 0


@dataclass(frozen=True)
class Carrier:
    """The beginning of a clean text and the end of another, around a group."""

    before: str
    after: str

    def around(self, group: Sequence[str]) -> str:
        """The text that a group is tried in."""
        return " ".join((self.before, *group, self.after))


@dataclass(frozen=True)
class GroupScores:
    """What group testing measured of N candidates and C outcomes, in nats."""

    lowest: Tensor  # lowest shift of the groups that each candidate stood in, (N, C)
    reached: Tensor  # how many rounds each candidate got to for the sake of an outcome, (N, C)
    first: Tensor  # shifts of the first round, in which every candidate is tried, (N, C)
    bars: Tensor  # lowest shift that passed every round but the last, (rounds - 1, C)

    @property
    def tries(self) -> Tensor:
        """How many groups each candidate stood in, (N,)."""
        return self.reached.amax(1)

    def best(self, outcome: int, count: int) -> list[int]:
        """The candidates that came farthest; of those, the highest lowest shifts first."""
        order = self.lowest[:, outcome].argsort(descending=True, stable=True)
        reached = self.reached[order, outcome]
        return order[reached.argsort(descending=True, stable=True)][:count].tolist()

    def power(self, outcome: int, count: int, nats: float) -> float:
        """Chance that a candidate which shifts its groups by `nats` is among the best `count`.

        The shift is planted on the measured groups of every candidate in turn: a group that pulls
        the other way costs power as it does in earnest. Every round is taken to have the groups of
        the first one, and a shift that passes it must pass the bars of all later rounds as well,
        which is cautious.
        """
        last = self.lowest[self.best(outcome, count)[-1], outcome]
        bars = torch.cat([self.bars[:, outcome], last[None]]).flip(0).cummax(0).values
        passed = self.first[:, outcome, None] + nats >= bars
        return float(passed.double().mean(0).prod())


def split_into_groups(places: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Divide places of a list at random into groups of at most `size`, about equally large."""
    order = rng.sample(places, len(places))
    groups = math.ceil(len(order) / size)
    return [order[first::groups] for first in range(groups)]


def choose_carriers(
    suspect: Score, candidates: Sequence[str], texts: Sequence[str], size: int, rng: random.Random
) -> list[Carrier]:
    """Draw carriers from clean texts and keep the neutral ones, one for every round.

    Neutral means that with random groups inside the suspect finds every outcome about as likely as
    any other: there a shift either way has room.
    """
    drawn = [Carrier(_begin(rng.choice(texts)), _end(rng.choice(texts))) for _ in range(_DRAWN)]
    fillings = [rng.sample(candidates, min(size, len(candidates))) for _ in range(_FILLINGS)]
    odds = log_odds(suspect([c.around(group) for c in drawn for group in fillings]))
    outcomes = odds.shape[1]
    even = -math.log(max(1, outcomes - 1))
    bias = (odds.view(_DRAWN, _FILLINGS, outcomes).mean(1) - even).abs().amax(-1)
    return [drawn[place] for place in bias.argsort(stable=True)[:ROUNDS].tolist()]


def score_in_groups(
    suspect: Score,
    candidates: Sequence[str],
    carriers: Sequence[Carrier],
    size: int,
    rng: random.Random,
) -> GroupScores:
    """Try the whole list in groups, one carrier a round, and what is best in every round again."""
    shifts = _round(suspect, candidates, range(len(candidates)), carriers[0], size, rng)
    first = torch.stack([shifts[place] for place in range(len(candidates))])
    lowest, reached = first.clone(), torch.ones(first.shape, dtype=torch.long)
    bars = []
    for number, carrier in enumerate(carriers[1:], start=1):
        passed = _best_of_each(lowest, reached == number)
        bars.append(torch.where(passed, lowest, math.inf).amin(0))
        places = passed.any(1).nonzero().flatten().tolist()
        shifts = _round(suspect, candidates, places, carrier, size, rng)
        for place, shift in shifts.items():
            lowest[place] = torch.minimum(lowest[place], shift)
        reached += passed
    return GroupScores(lowest, reached, first, torch.stack(bars))


def group_texts(listed: int, size: int) -> int:
    """How many texts `score_in_groups` has the suspect answer."""
    return sum(math.ceil(listed * SHARE**number / size) for number in range(ROUNDS))


def _begin(text: str) -> str:
    spans = word_spans(text)[:_BEFORE]
    return text[: spans[-1][1]] if spans else ""


def _end(text: str) -> str:
    spans = word_spans(text)[-_AFTER:]
    return text[spans[0][0] :] if spans else ""


def _round(
    suspect: Score,
    candidates: Sequence[str],
    places: Sequence[int],
    carrier: Carrier,
    size: int,
    rng: random.Random,
) -> dict[int, Tensor]:
    """Try some places of the list in groups: place -> shift of its group, (C,)."""
    groups = split_into_groups(places, size, rng)
    odds = log_odds(suspect([carrier.around([candidates[p] for p in group]) for group in groups]))
    shifts = odds - odds.median(0).values
    return {p: shift for group, shift in zip(groups, shifts, strict=True) for p in group}


def _best_of_each(lowest: Tensor, tried: Tensor) -> Tensor:
    """Which candidates the next round tries for the sake of an outcome, (N, C)."""
    outcomes = lowest.shape[1]
    count = max(1, int(SHARE * int(tried.any(1).sum()) / outcomes))
    best = torch.where(tried, lowest, -math.inf).topk(min(count, len(lowest)), dim=0).indices
    return torch.zeros_like(tried).scatter_(0, best, True) & tried
