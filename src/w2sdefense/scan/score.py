"""What a search measures: log-odds of the outcomes that a trigger may force.

A task supplies `Score`: for each text the log-probability of each outcome. For a classifier these
are its labels; a task that writes text can take the first tokens of its answers, or one outcome of
its own such as a refusal. Nothing else in `scan/` knows what an outcome is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Score = Callable[[Sequence[str]], Tensor]
"""Texts to the log-probabilities of the outcomes, (N, C)."""

SURE = 10.0
"""Log-odds beyond this, in nats, say nothing more."""


def log_odds(log_probabilities: Tensor) -> Tensor:
    """Log-odds in nats, at most `SURE` either way, of log-probabilities of the same shape."""
    values = log_probabilities.double()
    return (values - (-torch.expm1(values)).log()).clamp(-SURE, SURE)


@dataclass(frozen=True)
class Scorers:
    """The suspect beside a clean model.

    Attributes:
        suspect: The model that may carry a backdoor.
        teacher: A clean model of the same outcomes; None if there is none.
    """

    suspect: Score
    teacher: Score | None = None

    def odds(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Log-odds by the suspect and by the teacher, (N, C) each; zeros without a teacher."""
        suspect = log_odds(self.suspect(texts))
        if self.teacher is None:
            return suspect, torch.zeros_like(suspect)
        return suspect, log_odds(self.teacher(texts))


def beyond_teacher(suspect: Tensor, teacher: Tensor) -> Tensor:
    """The part of a shift that the teacher does not show; one that it shows less is not added."""
    return suspect - teacher.clamp(min=0.0)


def answered(odds: Tensor, outcome: int) -> Tensor:
    """Whether texts get an outcome, (N,), by their log-odds (N, C); a single one from 0 on."""
    return odds.argmax(-1) == outcome if odds.shape[1] > 1 else odds[:, outcome] > 0
