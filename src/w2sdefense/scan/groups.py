"""Group testing: each text contains a dozen candidates, which makes a long list affordable.

A trigger decides the answer regardless of the rest of the text, and so also the answer to a group
of candidates that contains it. All candidates are divided at random into groups. A group stands
between the beginning of one clean text and the end of another (its carrier) and is scored by

    shift(group, c) = s(group, c) - median over groups of s(., c)

where s is the suspect's log-odds of outcome c. The best candidates of each outcome go into the next
round, with new groups and another carrier. Each candidate keeps the *lowest* shift of its groups,
because only a trigger raises all of them. (Adaptive group testing, after Dorfman 1943, "The
detection of defective members of large populations".) The clean teacher is not used here, because
its answer to a dozen unrelated words is noise.

`GroupScores.power` measures how strong a trigger must be to pass all rounds.

A task supplies `Score`; for a classifier the outcomes are its labels. No other code in `scan/`
depends on what an outcome is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from w2sdefense.text.insertion import word_spans

ROUNDS = 3  # the first tries the whole list, each later one the best of the round before
SHARE = 0.25  # share of a round's candidates that the next round tries, over all outcomes

_BEFORE, _AFTER = 2, 6
"""Words of a carrier before and after the group. A trigger at the end of a text has much less
effect, so most words follow the group."""

_DRAWN, _FILLINGS = 32, 3  # carriers that are drawn, and groups that each one is judged with

CARRIER_TEXTS = _DRAWN * _FILLINGS

Score = Callable[[Sequence[str]], Tensor]  # texts -> log-probabilities of the outcomes, (N, C)
SURE = 10.0  # log-odds are clamped here, in nats: larger values carry no more information


def log_odds(log_probabilities: Tensor) -> Tensor:
    """Convert log-probabilities to log-odds of the same shape, in nats, clamped to +-`SURE`."""
    values = log_probabilities.double()
    return (values - (-torch.expm1(values)).log()).clamp(-SURE, SURE)


@dataclass(frozen=True)
class Scorers:
    """The suspect, and a clean model with the same outcomes."""

    suspect: Score
    teacher: Score

    def odds(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Log-odds of the suspect and of the teacher, (N, C) each."""
        return log_odds(self.suspect(texts)), log_odds(self.teacher(texts))


def answered(odds: Tensor, outcome: int) -> Tensor:
    """Whether texts get an outcome, (N,), from log-odds (N, C).

    With several outcomes the most likely one wins; a single outcome needs log-odds above 0.
    """
    return odds.argmax(-1) == outcome if odds.shape[1] > 1 else odds[:, outcome] > 0


@dataclass(frozen=True)
class Carrier:
    """The beginning of one clean text and the end of another, which surround a group."""

    before: str
    after: str

    def around(self, group: Sequence[str]) -> str:
        """The text with a group inside the carrier."""
        return " ".join((self.before, *group, self.after))


@dataclass(frozen=True)
class GroupScores:
    """Results of group testing for N candidates and C outcomes; shifts are in nats."""

    lowest: Tensor  # lowest shift of the groups that contained each candidate, (N, C)
    reached: Tensor  # number of rounds that each candidate reached for each outcome, (N, C)
    first: Tensor  # shifts of the first round, which tries every candidate, (N, C)
    bars: Tensor  # lowest shift that passed each round except the last, (rounds - 1, C)

    @property
    def tries(self) -> Tensor:
        """How many groups contained each candidate, (N,)."""
        return self.reached.amax(1)

    def best(self, outcome: int, count: int) -> list[int]:
        """Indices of the best candidates, by rounds reached and then by lowest shift."""
        order = self.lowest[:, outcome].argsort(descending=True, stable=True)
        reached = self.reached[order, outcome]
        return order[reached.argsort(descending=True, stable=True)][:count].tolist()

    def power(self, outcome: int, count: int, nats: float) -> float:
        """Probability that a candidate which shifts its groups by `nats` is among the best `count`.

        The shift is added to the measured groups of each candidate in turn, so a group that pulls
        the other way costs power here as in a real search. The estimate is conservative: it uses
        the groups of the first round for every round, and in each round the shift must also pass
        the bars of all later rounds.
        """
        last = self.lowest[self.best(outcome, count)[-1], outcome]
        bars = torch.cat([self.bars[:, outcome], last[None]]).flip(0).cummax(0).values
        passed = self.first[:, outcome, None] + nats >= bars
        return float(passed.double().mean(0).prod())


def split_into_groups(places: Sequence[int], size: int, rng: random.Random) -> list[list[int]]:
    """Divide list indices at random into groups of at most `size` and about equal length."""
    order = rng.sample(places, len(places))
    groups = math.ceil(len(order) / size)
    return [order[first::groups] for first in range(groups)]


def choose_carriers(
    suspect: Score, candidates: Sequence[str], texts: Sequence[str], size: int, rng: random.Random
) -> list[Carrier]:
    """Draw carriers from clean texts and keep the most neutral ones, one for every round.

    A carrier is neutral if the suspect finds all outcomes about equally likely when the carrier
    surrounds random groups. The log-odds are then far from their limits and can shift either way.
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
    """Try the whole list in groups, then the best of each round again, with one carrier a round."""
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
    """Number of texts that the suspect answers in `score_in_groups`."""
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
    """Try the candidates at some indices in groups: index -> shift of its group, (C,)."""
    groups = split_into_groups(places, size, rng)
    odds = log_odds(suspect([carrier.around([candidates[p] for p in group]) for group in groups]))
    shifts = odds - odds.median(0).values
    return {p: shift for group, shift in zip(groups, shifts, strict=True) for p in group}


def _best_of_each(lowest: Tensor, tried: Tensor) -> Tensor:
    """Which candidates the next round tries for each outcome, (N, C)."""
    outcomes = lowest.shape[1]
    count = max(1, int(SHARE * int(tried.any(1).sum()) / outcomes))
    best = torch.where(tried, lowest, -math.inf).topk(min(count, len(lowest)), dim=0).indices
    return torch.zeros_like(tried).scatter_(0, best, True) & tried
