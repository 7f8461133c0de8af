"""Held-out decoys: what a defense does to backdoors that it does not know.

Somebody who knows no trigger cannot measure its ASR. So backdoors of our own are trained into a
LoRA beside the defense, which neither sees them nor their weights: the same LoRA is folded into the
suspect before the defense and into the cleaned model after it, and what the decoys flip is counted
both times. A defense that only hides what it was trained on leaves them alive. Planted into the
suspect *while* it is cleaned they would keep its own backdoor alive, too (docs/decoys.md).

How well their ASR predicts that of a real trigger is measured in docs/decoys.md. It is a hint: the
defense was trained beside the real backdoor, and these come afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from w2sdefense.data.types import Dataset, texts_of
from w2sdefense.distill.decoys import KINDS, decoy_targets, draw_decoys
from w2sdefense.distill.planting import Planted, count_flips, plant
from w2sdefense.training.trainer import StepProgress
from w2sdefense.victim import Flips, Victim

SEED = 1000
"""Seed of their draw; that of a training draws other ones to unlearn."""

TEXTS = 48
"""Validation texts that each of them is put into, at most."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out decoy, before and after a defense."""

    kind: str  # kind of its trigger
    trigger: str  # its trigger
    target: int | str  # what it was to answer
    before: Flips  # what it flips in the suspect
    after: Flips  # what it flips in the cleaned model


@dataclass(frozen=True)
class HeldOutDecoys:
    """Decoys that are planted beside a defense, and what they flip in the suspect."""

    data: Dataset
    planted: Planted

    @classmethod
    def plant(
        cls,
        victim: Victim,
        data: Dataset,
        per_label: int,
        folder: Path,
        progress: StepProgress | None = None,
    ) -> HeldOutDecoys:
        """Train the decoys on a suspect, before it is defended; it stays as it is.

        Args:
            victim: The suspect; an adapter that it carries is folded in.
            data: Clean data.
            per_label: Decoys for each label (of text answers: for each of two of them).
            folder: Where their LoRA is kept, and found again.
            progress: Called after every step with (step, steps, losses).
        """
        targets = decoy_targets(data, SEED)
        decoys = draw_decoys(targets, per_label, KINDS, SEED, texts_of(data.train))
        return cls(data, plant(victim, decoys, data, folder, seed=SEED, progress=progress))

    def measure(self, victim: Victim) -> tuple[HeldOut, ...]:
        """Count what they flip in what a defense made of the suspect; it stays as it is."""
        decoys = self.planted.decoys
        with self.planted.put_in(victim.model):
            flips = count_flips(victim, decoys, self.data.validation, SEED, TEXTS)
        return tuple(
            HeldOut(decoy.kind, decoy.value, decoy.target, before, after)
            for decoy, before, after in zip(decoys, self.planted.flips, flips, strict=True)
        )
