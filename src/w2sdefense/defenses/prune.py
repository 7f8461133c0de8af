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
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from w2sdefense.config import DefendRun, PruneConfig, TrainingConfig
from w2sdefense.data.splits import limit
from w2sdefense.data.types import Example, texts_of
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.errors import ModelError
from w2sdefense.models.adapters import folded
from w2sdefense.models.features import backbone_of
from w2sdefense.models.padding import length_batches, pad, takes_positions
from w2sdefense.tasks.base import total_score
from w2sdefense.victim import Victim, fine_tune

Masks = dict[str, Tensor]
"""Parameter name -> which of its weights stay (bool, of its shape)."""

BATCH_TOKENS = 2048
"""Most tokens (padding included) in one forward pass."""

_WIDTHS = ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim")
"""What architectures call the number of units of an MLP."""


@dataclass(frozen=True)
class Prune:
    """Prunes what clean text uses least, then fine-tunes.

    Attributes:
        config: What is ranked, and how much accuracy it may cost.
        training: Settings of the fine-tuning.
    """

    config: PruneConfig = field(default_factory=PruneConfig)
    training: TrainingConfig = field(default_factory=lambda: DefendRun().full_training())

    name: ClassVar[str] = "prune"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_DATA})
    leaves: ClassVar[Leaves] = Leaves.MODEL

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run."""
        return cls(run.prune, run.full_training())

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Prune the victim in place, and fine-tune what is left."""
        victim.model = folded(victim.model)
        # A file may be sorted by label, and what one class leaves idle another may need.
        examples = limit(kit.data.train, self.config.texts, self.training.seed)
        rank = wanda_masks if self.config.by == "wanda" else unit_masks
        masks_of = rank(victim, examples)
        masks, share = self._search(victim, kit, masks_of)
        handles = [_hold(victim.model.get_parameter(name), mask) for name, mask in masks.items()]
        fine_tune(
            victim,
            kit.data.train,
            self.training,
            kit.folder,
            validation=kit.data.validation,
            resume=kit.resume,
            progress=kit.progress_of("fine-tuning"),
        )
        for handle in handles:
            handle.remove()
        victim.found |= {
            "pruned_by": self.config.by,
            "pruned_share": share,
            "pruned_weights": sum(int((~mask).sum()) for mask in masks.values()),
            "weights": sum(parameter.numel() for parameter in victim.model.parameters()),
        }
        return victim

    def _search(
        self, victim: Victim, kit: DefenseKit, masks_of: Callable[[float], Masks]
    ) -> tuple[Masks, float]:
        """Prune more and more while clean validation text bears it; the model ends at the last."""
        examples = kit.data.validation
        least = _quality(victim, examples) - self.config.max_loss * len(examples)
        progress = kit.progress_of("pruning")
        shares = _shares(self.config.step)
        masks: Masks = {}
        kept = 0.0
        for step, share in enumerate(shares, start=1):
            tried = masks_of(share)
            before = {name: victim.model.get_parameter(name).clone() for name in tried}
            _apply(victim.model, tried)
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


def unit_masks(victim: Victim, examples: tuple[Example, ...]) -> Callable[[float], Masks]:
    """Rank the units of every MLP by their mean absolute activation.

    Args:
        victim: The model.
        examples: Clean examples.

    Returns:
        A function that gives the masks for a share of the units of every layer: the rows (and
        biases) that make a unit, and the columns that read it.

    Raises:
        ModelError: The model has no MLPs that are made of linear layers.
    """
    layers = _mlps(victim)
    activity = _inputs(victim, examples, [out_of for _, out_of in layers], lambda x: x.abs())
    modules = dict(victim.model.named_modules())

    def masks_of(share: float) -> Masks:
        masks: Masks = {}
        for into, out_of in layers:
            kept = _keep_highest(activity[out_of], share)
            for name in into:
                masks[f"{name}.weight"] = _oriented(modules[name], kept[:, None])
                if modules[name].bias is not None:
                    masks[f"{name}.bias"] = kept
            masks[f"{out_of}.weight"] = _oriented(modules[out_of], kept[None, :])
        return masks

    return masks_of


def wanda_masks(victim: Victim, examples: tuple[Example, ...]) -> Callable[[float], Masks]:
    """Rank the weights of every linear layer by |W_ij| * ||x_j||.

    Args and returns are those of `unit_masks`; a share is one of the inputs of every output.
    """
    names = _linears(victim)
    squares = _inputs(victim, examples, names, lambda x: x.square())
    modules = dict(victim.model.named_modules())

    def masks_of(share: float) -> Masks:
        masks = {}
        for name in names:
            weight = _outputs_first(modules[name]).detach().abs().float()
            kept = _keep_highest(weight * squares[name].sqrt(), share)
            masks[f"{name}.weight"] = _oriented(modules[name], kept)
        return masks

    return masks_of


def _linears(victim: Victim) -> list[str]:
    backbone = f"{victim.model.base_model_prefix}."
    return [
        name
        for name, module in victim.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(backbone)
    ]


def _mlps(victim: Victim) -> list[tuple[list[str], str]]:
    """For every layer: the linear layers that make its units, and the one that reads them."""
    config = victim.model.config.get_text_config()
    wide = next((w for name in _WIDTHS if (w := getattr(config, name, None))), None)
    wide = wide or 4 * config.hidden_size
    modules = dict(victim.model.named_modules())
    layers: dict[str, tuple[list[str], list[str]]] = {}
    for name in _linears(victim):
        number = re.search(r"\.(\d+)\.", name)
        outputs, inputs = _outputs_first(modules[name]).shape
        if number is not None and (outputs == wide) != (inputs == wide):
            layers.setdefault(number[1], ([], []))[int(inputs == wide)].append(name)
    found = [(into, out_of[0]) for into, out_of in layers.values() if into and len(out_of) == 1]
    if len(found) != config.num_hidden_layers:
        raise ModelError(
            f"{type(victim.model).__name__} has no MLP of linear layers in every layer.",
            "Use --prune-by wanda.",
        )
    return found


@torch.inference_mode()
def _inputs(
    victim: Victim,
    examples: tuple[Example, ...],
    names: list[str],
    measure: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Sum of a measure of every input of some modules, over all real tokens of some texts."""
    model, tokenizer = victim.model.eval(), victim.tokenizer
    sums: dict[str, Tensor] = {}
    mask = torch.empty(0)

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            measured = (measure(args[0].float()) * mask[..., None]).sum((0, 1))
            sums[name] = sums[name] + measured if name in sums else measured

        return hook

    modules = dict(model.named_modules())
    handles = [modules[name].register_forward_pre_hook(hook_of(name)) for name in names]
    tokens = [row["input_ids"] for row in victim.task.rows(examples)]
    for rows in length_batches([len(ids) for ids in tokens], BATCH_TOKENS):
        batch = pad([tokens[row] for row in rows], tokenizer, positions=takes_positions(model))
        batch = {name: value.to(model.device) for name, value in batch.items()}
        mask = batch["attention_mask"]
        backbone_of(model)(**batch)
    for handle in handles:
        handle.remove()
    return sums


def _outputs_first(module: Any) -> Tensor:
    """The weight of a linear layer as (outputs, inputs); GPT-2's has it the other way round."""
    weight: Tensor = module.weight
    return weight.t() if isinstance(module, Conv1D) else weight


def _oriented(module: Any, kept: Tensor) -> Tensor:
    """A mask (outputs, inputs), or what expands to that, in the shape of the module's weight."""
    whole = kept.expand(_outputs_first(module).shape)
    return whole.t() if isinstance(module, Conv1D) else whole


def _keep_highest(scores: Tensor, share: float) -> Tensor:
    """True but for the lowest share of the scores along the last dimension."""
    order = scores.argsort(dim=-1, stable=True)
    kept = torch.ones_like(scores, dtype=torch.bool)
    return kept.scatter_(-1, order[..., : int(share * scores.shape[-1] + 1e-9)], False)


def _apply(model: nn.Module, masks: Masks) -> None:
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(mask)


def _hold(parameter: nn.Parameter, mask: Tensor) -> Any:
    """Keep pruned weights at zero while the others are trained."""
    parameter.requires_grad_(True)
    held = parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
    return held


def _quality(victim: Victim, examples: tuple[Example, ...]) -> float:
    answers = [one.answer for one in victim.predict(texts_of(examples))]
    return total_score(victim.task, answers, examples)
