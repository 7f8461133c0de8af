"""A text without one of its words: what is known of its perplexity, and when that is enough.

    PPL(x) = exp(mean over the tokens of x of -log p(token | what is before it))

Up to the gap such a variant is the text itself, and its first token behind the gap is predicted
from there: so much the pass over the whole text tells. The model is not run here; see
`perplexity.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile

import torch
from torch import Tensor

_ROUNDING = 1e-3
"""What float32 may lose in a sum of log-probabilities, generously, in nats."""

STAGES = (1, 4, 8, 16, 32, 64)
"""Tokens behind the gap after which a variant may be given up."""

NO_MARGINS = (math.inf,) * len(STAGES)


@dataclass
class Variant:
    """A text without one word.

    Attributes:
        text: Row of the whole text in its batch.
        place: (Which text, which word) of the caller.
        shared: Tokens that it begins with like the whole text.
        rest: The tokens after those.
        limit: Highest sum of -log p that is of interest.
        ends: Sums of -log p over the last 0, 1, 2 ... tokens of the whole text, as far as the two
            end alike.
        nll: Sum of -log p over the tokens that are scored so far.
        done: How many tokens of the rest are scored.
        estimates: What the whole sum seemed to be after each stage.
    """

    text: int
    place: tuple[int, int]
    shared: int
    rest: list[int]
    limit: float
    ends: list[float]
    nll: float
    done: int
    estimates: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Tokens that are scored in the end."""
        return self.shared - 1 + len(self.rest)

    @property
    def tail(self) -> float:
        """Sum of -log p over the tokens that are left, in the whole text."""
        return self.ends[min(len(self.rest) - self.done, len(self.ends) - 1)]

    def within(self, margins: Sequence[float]) -> bool:
        """Whether the sum can still be as low as the limit; notes the estimate of this stage."""
        margin = margins[len(self.estimates)]
        self.estimates.append(self.nll + self.tail)
        return self.nll + max(0.0, self.tail - margin) <= self.limit


class KnownText:
    """What the pass over a whole text tells of its variants.

    Args:
        row: Row of the text in its batch.
        tokens: Its tokens.
        nll: -log p of every token but the first, padded (L - 1,).
        logits: (L, V).
    """

    def __init__(self, row: int, tokens: list[int], nll: Tensor, logits: Tensor) -> None:
        self._row, self._tokens, self._logits = row, tokens, logits
        nlls = nll[: len(tokens) - 1].tolist()
        self._begins = [0.0, *accumulate(nlls)]
        self._ends = [0.0, *accumulate(reversed(nlls))]
        self.perplexity = perplexity_of(self._begins[-1], len(nlls))

    def variant(self, place: tuple[int, int], ids: list[int], lowest: float) -> Variant:
        """A variant with what is known of it.

        Args:
            place: (Which text, which word) of the caller.
            ids: Its tokens.
            lowest: Highest perplexity of it that is of interest.
        """
        shared = _alike(self._tokens, ids)
        rest = ids[shared:]
        nll = self._begins[shared - 1]
        if rest:
            first = torch.tensor(rest[0], device=self._logits.device)
            nll += float(token_nll(self._logits[shared - 1], first))
        alike = _alike(self._tokens[shared:][::-1], rest[1:][::-1])
        limit = -math.inf
        if lowest >= 1.0 - _ROUNDING:
            limit = (len(ids) - 1) * math.log(max(lowest, 1.0)) + _ROUNDING
        done = min(1, len(rest))
        ends = self._ends[: alike + 1]
        return Variant(self._row, place, shared, rest, limit, ends, nll, done)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginnings."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def perplexity_of(nll: float, count: int) -> float:
    """PPL of a text with so many tokens and so large a sum of -log p; NaN of an empty one."""
    return math.exp(nll / count) if count else math.nan


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of tokens (...) under logits (..., V), in float64."""
    logits = logits.float()
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    return (logits.logsumexp(-1) - chosen).double()
