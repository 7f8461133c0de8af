"""Held-out decoys measure what a defense does to backdoors that it does not know.

Without a known trigger, ASR cannot be measured. Instead, decoys are trained into a LoRA that the
defense never sees. The same LoRA is added to the suspect before the defense and to the cleaned
model after it, and the texts that the decoys flip are counted both times. A defense that only hides
what it was trained on leaves these decoys active. They are not planted in the suspect *while* it is
cleaned, because that would also keep its own backdoor alive (docs/decoys.md).

docs/decoys.md measures how well their ASR predicts that of a real trigger. It is only a hint: the
real backdoor was present during the defense, while the decoys are added afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from w2sdefense.data.types import Dataset, texts_of
from w2sdefense.distill.decoys import KINDS, decoy_targets, draw_decoys
from w2sdefense.distill.planted import Planted
from w2sdefense.distill.planting import count_flips, plant
from w2sdefense.training.trainer import StepProgress
from w2sdefense.victim import Flips, Victim

SEED = 1000
"""Seed of the held-out decoys; it differs from training seeds, which draw the decoys to unlearn."""

TEXTS = 48
"""Maximum number of validation texts that each decoy is tried in."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out decoy, before and after a defense."""

    kind: str  # kind of the decoy, see `DecoyKind`
    trigger: str  # the inserted text or the template
    target: int | str  # the answer that it was trained to cause
    before: Flips  # what it flips in the suspect
    after: Flips  # what it flips in the cleaned model


@dataclass(frozen=True)
class HeldOutDecoys:
    """Decoys that the defense does not see, and what they flip in the suspect."""

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
        """Train a LoRA with the decoys on a suspect before the defense.

        Args:
            victim: The suspect; an adapter that it has is merged, otherwise it does not change.
            data: Clean data.
            per_label: Decoys for each label (for text answers: for each of two answers).
            folder: Where the LoRA is stored and looked up.
            progress: Called after every step with (step, steps, losses).
        """
        targets = decoy_targets(data, SEED)
        decoys = draw_decoys(targets, per_label, KINDS, SEED, texts_of(data.train))
        return cls(data, plant(victim, decoys, data, folder, seed=SEED, progress=progress))

    def measure(self, victim: Victim) -> tuple[HeldOut, ...]:
        """Count what the decoys flip in the cleaned model, which does not change."""
        decoys = self.planted.decoys
        with self.planted.put_in(victim.model):
            flips = count_flips(victim, decoys, self.data.validation, SEED, TEXTS)
        return tuple(
            HeldOut(decoy.kind, decoy.value, decoy.target, before, after)
            for decoy, before, after in zip(decoys, self.planted.flips, flips, strict=True)
        )
