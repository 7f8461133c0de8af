"""What came out of every trial, and which one is chosen.

Clean validation accuracy decides first: all within a tolerance of the best stay. Of these the one
with the lowest exposure (`signal.py`) is chosen; accuracy, then the earlier trial, break a tie. How
trials are proposed is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from w2sdefense.evaluation.metrics import Rate

Values = dict[str, float]
"""Setting -> value: alpha, beta, gamma, temperature, lora_r."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one student.

    Attributes:
        accuracy: Clean validation accuracy.
        exposure: The signal without a trigger.
    """

    accuracy: Rate
    exposure: Rate


@dataclass(frozen=True)
class Trial:
    """One trial that is over.

    Attributes:
        number: Its number in the study.
        values: What it was trained with.
        measured: What came out; None if it was stopped early.
        seconds: Wall time.
    """

    number: int
    values: Values
    measured: Measured | None
    seconds: float

    def as_values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        shares = {} if self.measured is None else asdict(self.measured)
        return {
            "number": self.number,
            "settings": self.values,
            "stopped": self.measured is None,
            **{name: rate.model_dump() for name, rate in shares.items()},
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Choice:
    """The trial that was chosen.

    Attributes:
        trial: It.
        measured: What was measured of it.
        why: The reason, in a sentence or two.
    """

    trial: Trial
    measured: Measured
    why: str

    @classmethod
    def of(cls, trials: Sequence[Trial], tolerance: float) -> Self | None:
        """Choose; None if no trial came to its end.

        Args:
            trials: All trials.
            tolerance: Accuracy that may be given up, as a share.
        """
        whole = [(trial, trial.measured) for trial in trials if trial.measured is not None]
        if not whole:
            return None
        best = max(measured.accuracy.value for _, measured in whole)
        # Rounding must not throw out one that lies on the edge.
        kept = [one for one in whole if one[1].accuracy.value >= best - tolerance - 1e-9]
        trial, measured = min(
            kept, key=lambda one: (one[1].exposure.value, -one[1].accuracy.value, one[0].number)
        )
        accuracy, found = measured.accuracy, measured.exposure
        return cls(
            trial,
            measured,
            f"The best clean validation accuracy is {best:.1%}; {len(kept)} of {len(whole)} trials "
            f"lie within {100 * tolerance:g} points of it. Of these, trial {trial.number} "
            f"({accuracy.hits}/{accuracy.total}) follows the fewest candidates: {found.hits} of "
            f"{found.total}.",
        )
