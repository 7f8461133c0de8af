"""Which tokens a training taught a model something about, where its base is at hand.

Whoever plants a backdoor by training all parameters trains the embeddings of the trigger's tokens
as well, and in one direction: every poisoned row pulls the same way, while natural words are pulled
to and fro (`embedding_drift`). Through an adapter no embedding moves; there the update of the first
layer answers some tokens more than others (`weight_response`). Neither proves anything: both tell a
search where to begin.

What this does not cover: a base that is not known; triggers of words that are common in the
training text anyway; updates of later layers only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from w2sdefense.errors import ModelError
from w2sdefense.models.features import backbone_of
from w2sdefense.models.load import load_weights

_STILL = 4.0
"""A token that moved less than this many times the median did not: weight decay moves all."""

_SPREADS = 6.0
"""Median absolute deviations above the median from which a token answers an update."""

_OUTPUTS = ("o_proj", "out_proj", "c_proj", "output")
"""What architectures call the matrices of a layer that do not read its input."""

_CHUNK = 8192
"""Tokens whose images are computed at once."""


def suspicious_tokens(model: nn.Module, base: str, count: int) -> list[int]:
    """The tokens that a suspect learned most about, beside its base.

    Args:
        model: The suspect, possibly with an adapter.
        base: The model that it was made from: what `resolve` takes.
        count: How many tokens at most.

    Returns:
        Token ids, by embedding drift and by weight response in turn, the most suspicious first.

    Raises:
        ModelError: The base cannot be read, or is of another width.
    """
    backbone = backbone_of(model)
    updates = _first_layer(backbone)
    table = backbone.get_input_embeddings().weight.detach().cpu().float()
    names = _name_of(backbone, backbone.get_input_embeddings())
    stored = load_weights(base, [names, *updates])
    rankings = [embedding_drift(table, stored[names], count)]
    updates = {name: update for name, update in updates.items() if name in stored}
    if updates:
        rankings.append(weight_response(stored[names][: len(table)], updates, stored, count))
    return _in_turn(rankings)[:count]


def embedding_drift(suspect: Tensor, base: Tensor, count: int) -> list[int]:
    """The tokens whose embeddings moved farthest.

    Args:
        suspect: Token embeddings of the suspect, (V, d).
        base: Those of the model it was made from, (V', d); rows that only one has are left out.
        count: How many tokens at most.

    Returns:
        Token ids, the farthest first; fewer than `count`, or none, if fewer moved.

    Raises:
        ModelError: The two have embeddings of different widths: it is another model.
    """
    rows = _shared_rows(suspect, base)
    moved = (suspect[:rows].double() - base[:rows].double()).norm(dim=-1)
    return _outliers(moved, _STILL * moved.median(), count)


def weight_response(
    base: Tensor, updated: Mapping[str, Projection], stored: Mapping[str, Tensor], count: int
) -> list[int]:
    """The tokens whose image under the first layer the update changed most.

        response(t) = (sum_W |(W_s - W_b) x_t|^2 / sum_W |W_b x_t|^2)^(1/2)

    with x_t the token's embedding in the base divided by its norm, and W the matrices of the first
    layer that read it. A token stands out from 6 median absolute deviations above the median on.

    Args:
        base: Token embeddings of the base, (V, d).
        updated: Name -> matrix of the suspect.
        stored: Name -> matrix of the base.
        count: How many tokens at most.

    Returns:
        Token ids, the largest response first; fewer, or none, if fewer respond.
    """
    responses = []
    for first in range(0, len(base), _CHUNK):
        embeddings = nn.functional.normalize(base[first : first + _CHUNK].float())
        change, size = torch.zeros(len(embeddings)), torch.zeros(len(embeddings))
        for name, projection in updated.items():
            weight = stored[name].float()
            size += projection.of(embeddings, weight).square().sum(-1)
            change += projection.of(embeddings, projection.weight - weight).square().sum(-1)
        responses.append((change / size.clamp(min=1e-12)).sqrt())
    values = torch.cat(responses)
    middle = values.median()
    return _outliers(values, middle + _SPREADS * (values - middle).abs().median(), count)


@dataclass(frozen=True)
class Projection:
    """A matrix that reads the width of the model.

    Attributes:
        weight: As it acts, with an adapter's update in it.
        inputs_first: Whether it is stored (d, out), as in GPT-2, and not (out, d).
    """

    weight: Tensor
    inputs_first: bool

    def of(self, x: Tensor, weight: Tensor) -> Tensor:
        """The images of embeddings (N, d) under a weight that is stored like this one."""
        return x @ weight if self.inputs_first else x @ weight.T


def _first_layer(backbone: Any) -> dict[str, Projection]:
    """The matrices of the first layer that read its input, by their names in the base."""
    blocks = next((m for m in backbone.modules() if isinstance(m, nn.ModuleList) and len(m)), None)
    if blocks is None:
        return {}
    width = backbone.get_input_embeddings().weight.shape[1]
    prefix = _name_of(backbone, blocks).removesuffix(".weight")
    adapted = [f"{n}." for n, m in blocks[0].named_modules() if isinstance(m, BaseTunerLayer)]
    found = {}
    for name, module in blocks[0].named_modules():
        weight = _acting_weight(module)
        # What is inside an adapted layer is a part of it.
        if weight is None or name.startswith(tuple(adapted)):
            continue
        if any(part in name for part in _OUTPUTS):
            continue
        inputs_first = isinstance(_plain(module), Conv1D)
        if weight.shape[0 if inputs_first else 1] == width:
            found[f"{prefix}.0.{name}.weight"] = Projection(weight, inputs_first)
    return found


def _plain(module: nn.Module) -> Any:
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


@torch.no_grad()
def _acting_weight(module: nn.Module) -> Tensor | None:
    """The matrix of a linear layer with its adapter in it; None of others and of 4-bit ones."""
    plain = _plain(module)
    if not isinstance(plain, nn.Linear | Conv1D) or not plain.weight.is_floating_point():
        return None
    weight: Tensor = plain.weight.detach().float()
    if isinstance(module, BaseTunerLayer) and hasattr(module, "get_delta_weight"):
        for name in module.active_adapters:
            weight = weight + module.get_delta_weight(name).float()
    return weight.cpu()


def _name_of(backbone: Any, wanted: nn.Module) -> str:
    name = next(name for name, module in backbone.named_modules() if module is wanted)
    return f"{name}.weight"


def _shared_rows(suspect: Tensor, base: Tensor) -> int:
    if suspect.shape[1] != base.shape[1]:
        raise ModelError(
            f"The base has embeddings of width {base.shape[1]}, the suspect of {suspect.shape[1]}.",
            "Name the very model that the suspect was fine-tuned from, or none.",
        )
    return min(len(suspect), len(base))


def _outliers(values: Tensor, bar: Tensor, count: int) -> list[int]:
    far = values > bar
    order = torch.where(far, values, 0.0).argsort(descending=True, stable=True)
    return order[: min(count, int(far.sum()))].tolist()


def _in_turn(rankings: Iterable[list[int]]) -> list[int]:
    """The first of every ranking, then the second of every one, each token once."""
    waiting = [list(ranking) for ranking in rankings]
    found: dict[int, None] = {}
    while any(waiting):
        for ranking in waiting:
            if ranking:
                found[ranking.pop(0)] = None
    return list(found)
