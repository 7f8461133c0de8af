"""Pruning: what clean text does not use is removed, and the rest is fine-tuned.

A backdoor may live in units that are silent on clean text. Two ways to rank, both per layer and on
clean training text, padding left out:

- `activation`, Fine-Pruning (Liu et al. 2018, https://arxiv.org/abs/1805.12185): a unit of an MLP
  (an input of its last projection) by the mean of its absolute activation.
- `wanda` (Sun et al. 2023, https://arxiv.org/abs/2306.11695): a weight of any linear layer of the
  transformer by |W_ij| * ||x_j||, compared within the weights of its output i.

The lowest ones are pruned step by step, the same share in every layer, as long as the accuracy on
clean validation text stays within the tolerance; then everything else is fine-tuned while the
pruned weights are held at zero. Attention heads are not pruned, and neither are the experts of a
mixture, which are no linear layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from w2sdefense.config import (
    Fraction,
    FullTrainingConfig,
    Positive,
    Settings,
    TrainingConfig,
    setting,
)
from w2sdefense.data.splits import limit
from w2sdefense.data.types import Example, texts_of
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need

if TYPE_CHECKING:
    from w2sdefense.defenses.pruning import Masks
    from w2sdefense.victim import Victim


class PruneConfig(Settings):
    """Pruning: what clean text uses least is removed."""

    by: Literal["activation", "wanda"] = setting(
        "activation",
        "activation: MLP units by their mean activation (Fine-Pruning); wanda: single "
        "weights by |W| * ||x||.",
    )
    max_loss: Fraction = setting(
        0.04, "Largest loss of accuracy on clean validation text, before fine-tuning."
    )
    step: Annotated[float, Field(gt=0.0, le=0.5)] = setting(
        0.05, "Share of every layer that is pruned more at each step.", advanced=True
    )
    texts: Positive = setting(256, "Clean training texts to rank by.", advanced=True)


@dataclass(frozen=True)
class Prune(Defense):
    """Prunes what clean text uses least, then fine-tunes."""

    prune: PruneConfig = field(default_factory=PruneConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    full: FullTrainingConfig = field(default_factory=FullTrainingConfig)

    name: ClassVar[str] = "prune"
    title: ClassVar[str] = "Prune"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.MODEL

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Prune the victim in place, and fine-tune what is left."""
        from w2sdefense.defenses.pruning import hold, unit_masks, wanda_masks
        from w2sdefense.models.adapters import folded

        victim.model = folded(victim.model)
        # A file may be sorted by label, and what one class leaves idle another may need.
        examples = limit(kit.data.train, self.prune.texts, self.training.seed)
        rank = wanda_masks if self.prune.by == "wanda" else unit_masks
        masks_of = rank(victim, examples)
        masks, share = self._search(victim, kit, masks_of)
        handles = [hold(victim.model.get_parameter(name), mask) for name, mask in masks.items()]
        kit.fine_tune(victim, self.full.applied_to(self.training), "fine-tuning")
        for handle in handles:
            handle.remove()
        victim.found |= {
            "pruned_by": self.prune.by,
            "pruned_share": share,
            "pruned_weights": sum(int((~mask).sum()) for mask in masks.values()),
            "weights": sum(parameter.numel() for parameter in victim.model.parameters()),
        }
        return victim

    def _search(
        self, victim: Victim, kit: DefenseKit, masks_of: Callable[[float], Masks]
    ) -> tuple[Masks, float]:
        """Prune more and more while clean validation text bears it; the model ends at the last."""
        from w2sdefense.defenses.pruning import zero

        examples = kit.data.validation
        least = _quality(victim, examples) - self.prune.max_loss * len(examples)
        progress = kit.progress_of("pruning")
        shares = _shares(self.prune.step)
        masks: Masks = {}
        kept = 0.0
        for step, share in enumerate(shares, start=1):
            tried = masks_of(share)
            before = {name: victim.model.get_parameter(name).clone() for name in tried}
            zero(victim.model, tried)
            if _quality(victim, examples) < least - 1e-9:
                for name, value in before.items():
                    victim.model.get_parameter(name).data.copy_(value)
                break
            masks, kept = tried, share
            if progress is not None:
                progress(step, len(shares), {"share": share})
        return masks, kept


def _shares(step: float) -> list[float]:
    """All multiples of a step below 1: a layer of which nothing is left answers nothing."""
    multiples = (round(number * step, 9) for number in range(1, math.ceil(1 / step) + 1))
    return [share for share in multiples if share < 1.0]


def _quality(victim: Victim, examples: tuple[Example, ...]) -> float:
    from w2sdefense.tasks.base import total_score

    answers = [one.answer for one in victim.predict(texts_of(examples))]
    return total_score(victim.task, answers, examples)
