"""Pruning: removes MLP units that clean text does not use, then fine-tunes the rest.

Fine-Pruning (Liu et al. 2018, https://arxiv.org/abs/1805.12185): a backdoor may use units that are
inactive on clean text. The units of an MLP (the inputs of its last projection) are ranked by their
mean absolute activation on clean training text, without padding. The lowest ones are pruned step by
step, the same share in every layer, as long as the accuracy on clean validation text stays within
the tolerance. Then everything else is fine-tuned while the pruned weights stay zero. Attention
heads are not pruned, nor are the experts of a mixture, which are not linear layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

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
from w2sdefense.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from w2sdefense.victim import Victim

Masks: TypeAlias = "dict[str, Tensor]"
"""Parameter name -> which of its weights stay (bool, of its shape)."""

BATCH_TOKENS = 2048  # maximum number of tokens in one forward pass, including padding


class PruneConfig(Settings):
    """Pruning: what clean text uses least is removed."""

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
        from w2sdefense.models.adapters import folded

        victim.model = folded(victim.model)
        # A random sample: a file may be sorted by label, and each class uses other units.
        examples = limit(kit.data.train, self.prune.texts, self.training.seed)
        masks, share = self._search(victim, kit, unit_masks(victim, examples))
        handles = [hold(victim.model.get_parameter(name), mask) for name, mask in masks.items()]
        kit.fine_tune(victim, self.full.applied_to(self.training), "fine-tuning")
        for handle in handles:
            handle.remove()
        victim.found |= {
            "pruned_share": share,
            "pruned_weights": sum(int((~mask).sum()) for mask in masks.values()),
            "weights": sum(parameter.numel() for parameter in victim.model.parameters()),
        }
        return victim

    def _search(
        self, victim: Victim, kit: DefenseKit, masks_of: Callable[[float], Masks]
    ) -> tuple[Masks, float]:
        """Prune larger shares while the loss on clean validation text is tolerable.

        Returns the masks and the share of the last tolerable step, which the model is left with.
        """
        examples = kit.data.validation
        least = _quality(victim, examples) - self.prune.max_loss * len(examples)
        progress = kit.progress_of("pruning")
        shares = _shares(self.prune.step)
        masks: Masks = {}
        kept = 0.0
        for step, share in enumerate(shares, start=1):
            tried = masks_of(share)
            before = {name: victim.model.get_parameter(name).clone() for name in tried}
            for name, mask in tried.items():
                victim.model.get_parameter(name).data.mul_(mask)
            if _quality(victim, examples) < least - 1e-9:
                for name, value in before.items():
                    victim.model.get_parameter(name).data.copy_(value)
                break
            masks, kept = tried, share
            if progress is not None:
                progress(step, len(shares), {"share": share})
        return masks, kept


def _shares(step: float) -> list[float]:
    """All multiples of a step below 1: some units of each layer must remain."""
    multiples = (round(number * step, 9) for number in range(1, math.ceil(1 / step) + 1))
    return [share for share in multiples if share < 1.0]


def _quality(victim: Victim, examples: tuple[Example, ...]) -> float:
    from w2sdefense.tasks.base import total_score

    answers = [one.answer for one in victim.predict(texts_of(examples))]
    return total_score(victim.task, answers, examples)


def unit_masks(victim: Victim, examples: tuple[Example, ...]) -> Callable[[float], Masks]:
    """Rank the units of every MLP by their mean absolute activation on clean examples.

    Returns:
        A function from the share of units to prune in every layer to the masks: of the rows (and
        biases) that compute the units, and of the columns that read them.

    Raises:
        ModelError: Some layer of the model has no MLP of linear layers.
    """
    layers = _mlps(victim)
    activity = _activity(victim, examples, [out_of for _, out_of in layers])
    modules = dict(victim.model.named_modules())

    def masks_of(share: float) -> Masks:
        masks: Masks = {}
        for into, out_of in layers:
            kept = _keep_highest(activity[out_of], share)
            for name in into:
                masks[f"{name}.weight"] = _mask(modules[name], kept[:, None])
                if modules[name].bias is not None:
                    masks[f"{name}.bias"] = kept
            masks[f"{out_of}.weight"] = _mask(modules[out_of], kept[None, :])
        return masks

    return masks_of


def _mlps(victim: Victim) -> list[tuple[list[str], str]]:
    """For every layer: the linear layers that compute its units, and the one that reads them."""
    from w2sdefense.models.features import linear_layers, mlp_width, outputs_first

    config = victim.model.config.get_text_config()
    wide = mlp_width(config)
    layers: dict[str, tuple[list[str], list[str]]] = {}
    for name, module in linear_layers(victim.model).items():
        number = re.search(r"\.(\d+)\.", name)
        outputs, inputs = outputs_first(module, module.weight).shape
        if number is not None and (outputs == wide) != (inputs == wide):
            layers.setdefault(number[1], ([], []))[int(inputs == wide)].append(name)
    found = [(into, out_of[0]) for into, out_of in layers.values() if into and len(out_of) == 1]
    if len(found) != config.num_hidden_layers:
        raise ModelError(
            f"{type(victim.model).__name__} has no MLP of linear layers in every layer.",
            "Use another defense, such as --defense finetune.",
        )
    return found


def _activity(victim: Victim, examples: tuple[Example, ...], names: list[str]) -> dict[str, Tensor]:
    """Sum of the absolute inputs of each module over all tokens except padding, (units,) each."""
    import torch

    from w2sdefense.models.features import backbone_of
    from w2sdefense.models.tokenizer import length_batches, pad, takes_positions

    model, tokenizer = victim.model.eval(), victim.tokenizer
    sums: dict[str, Tensor] = {}
    mask = torch.empty(0)

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            measured = (args[0].float().abs() * mask[..., None]).sum((0, 1))
            sums[name] = sums[name] + measured if name in sums else measured

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_pre_hook(hook_of(name)) for name in names]
    tokens = [row["input_ids"] for row in victim.task.rows(examples)]
    with torch.inference_mode():
        for rows in length_batches([len(ids) for ids in tokens], BATCH_TOKENS):
            batch = pad([tokens[row] for row in rows], tokenizer, positions=takes_positions(model))
            batch = {name: value.to(model.device) for name, value in batch.items()}
            mask = batch["attention_mask"]
            backbone_of(model)(**batch)
    for handle in handles:
        handle.remove()
    return sums


def _mask(module: Any, kept: Tensor) -> Tensor:
    """Expand `kept` to (outputs, inputs) and arrange it like the module's weight."""
    from w2sdefense.models.features import outputs_first

    return outputs_first(module, kept.expand(outputs_first(module, module.weight).shape))


def _keep_highest(scores: Tensor, share: float) -> Tensor:
    """Boolean mask (N,) that is False for the lowest share of the scores (N,)."""
    lowest = int(share * len(scores) + 1e-9)
    return scores.argsort(stable=True).argsort() >= lowest


def hold(parameter: nn.Parameter, mask: Tensor) -> Any:
    """Zero the gradients of pruned weights, so that they stay zero in training."""
    parameter.requires_grad_(True)
    return parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
