"""CA, ASR and the no-trigger floor, as counts with Wilson intervals.

The attack success rate (ASR) is the share of triggered test samples *whose true label is not the
target* that are answered with the target. It is not `1 - accuracy`, which is wrong for more than
two classes. The floor is the share of the same samples that are answered with the target without
the trigger. An ASR near the floor means that the trigger has no effect.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from w2sdefense.data.types import Answer

Z_95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


class Frozen(BaseModel):
    """Base class of the parts of a record: immutable, and unknown fields are errors."""

    # A diverged loss is a valid result. JSON has no NaN, so it is written as the string "NaN".
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Rate(Frozen):
    """A share and its counts: `hits` out of `total` samples."""

    hits: int = Field(ge=0)
    total: int = Field(ge=0)

    @model_validator(mode="after")
    def _is_a_share(self) -> Self:
        if self.hits > self.total:
            raise ValueError(f"{self.hits} hits out of {self.total}")
        return self

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN when nothing was counted."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson score interval (Wilson 1927), in [0, 1]."""
        return wilson_interval(self.hits, self.total)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] ({self.hits}/{self.total})"


class Mean(Frozen):
    """The mean of scores in [0, 1], with their standard deviation; NaN when nothing was scored."""

    value: float
    deviation: float = Field(ge=0.0)
    total: int = Field(ge=0)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % normal interval in [0, 1]; valid for a few dozen samples or more."""
        if self.total < 2:
            return 0.0, 1.0
        margin = Z_95 * self.deviation / math.sqrt(self.total)
        return max(0.0, self.value - margin), min(1.0, self.value + margin)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] (n = {self.total})"


Quality: TypeAlias = Rate | Mean
"""The quality of answers to clean text: a share of right answers, or a mean score."""


def mean_of(scores: Sequence[float]) -> Mean:
    """The mean of some scores, with the deviation and count that its interval needs."""
    return Mean(
        value=statistics.fmean(scores) if scores else math.nan,
        deviation=statistics.stdev(scores) if len(scores) > 1 else 0.0,
        total=len(scores),
    )


def wilson_interval(hits: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval in [0, 1] of `hits` out of `total`; (0, 1) if nothing was counted."""
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    spread = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    centre = share + z * z / (2 * total)
    scale = 1 + z * z / total
    # For 0 hits or all hits, rounding must not move a bound beyond the share itself.
    return max(0.0, min(share, (centre - spread) / scale)), min(
        1.0, max(share, (centre + spread) / scale)
    )


def chance(references: Sequence[Answer]) -> float:
    """The accuracy of always giving the most frequent right answer; NaN without references."""
    counts = Counter(references)
    return max(counts.values()) / len(references) if counts else math.nan


def accuracy(predictions: Sequence[Answer], labels: Sequence[Answer]) -> Rate:
    """Clean accuracy (CA): share of samples answered with their true label."""
    hits = sum(p == y for p, y in zip(predictions, labels, strict=True))
    return Rate(hits=hits, total=len(labels))
