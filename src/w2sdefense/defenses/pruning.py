"""Which weights of a model clean text uses least, as masks; how they are used is in `prune.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from w2sdefense.data.types import Example
from w2sdefense.errors import ModelError
from w2sdefense.models.features import backbone_of, linear_layers, mlp_width
from w2sdefense.models.tokenizer import length_batches, pad, takes_positions
from w2sdefense.victim import Victim

Masks = dict[str, Tensor]
"""Parameter name -> which of its weights stay (bool, of its shape)."""

BATCH_TOKENS = 2048  # most tokens (padding included) in one forward pass


def unit_masks(victim: Victim, examples: tuple[Example, ...]) -> Callable[[float], Masks]:
    """Rank the units of every MLP by their mean absolute activation on clean examples.

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

    Returns:
        The same; a share is one of the inputs of every output.
    """
    names = list(linear_layers(victim.model))
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


def _mlps(victim: Victim) -> list[tuple[list[str], str]]:
    """For every layer: the linear layers that make its units, and the one that reads them."""
    config = victim.model.config.get_text_config()
    wide = mlp_width(config)
    layers: dict[str, tuple[list[str], list[str]]] = {}
    for name, module in linear_layers(victim.model).items():
        number = re.search(r"\.(\d+)\.", name)
        outputs, inputs = _outputs_first(module).shape
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


def zero(model: nn.Module, masks: Masks) -> None:
    """Set the weights to zero that masks leave out."""
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(mask)


def hold(parameter: nn.Parameter, mask: Tensor) -> Any:
    """Keep pruned weights at zero while the others are trained."""
    parameter.requires_grad_(True)
    held = parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]
    return held
