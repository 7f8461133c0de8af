"""How the weights of several models become those of one: average, slerp, TIES.

Pure functions. Which models are merged, and that they fit together, is the business of `merge.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = dict[str, Tensor]
"""Name of a weight -> its values, as in a state dict."""

PARALLEL = 0.9995
"""Tensors whose cosine is beyond this are averaged: the angle between them is too small to use."""


def average(values: Sequence[Tensor]) -> Tensor:
    """The uniform average of tensors of one shape, in the type of the first."""
    mean: Tensor = sum(value.float() for value in values) / len(values)  # type: ignore[assignment]
    return mean.to(values[0].dtype)


def slerp(values: Sequence[Tensor]) -> Tensor:
    """Half-way between two tensors along the great circle of their directions (Shoemake 1985).

        sin(w / 2) / sin(w) * (a + b),   w the angle between a and b

    Tensors that are almost parallel (or opposite, or zero) are averaged.
    """
    one, other = (value.float() for value in values)
    norms = one.norm() * other.norm()
    cosine = float((one * other).sum() / norms) if norms > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return average(values)
    angle = torch.arccos(torch.tensor(cosine))
    return ((angle / 2).sin() / angle.sin() * (one + other)).to(values[0].dtype)


def ties(
    models: Sequence[Weights], base: Mapping[str, Tensor], density: float, scale: float
) -> Weights:
    """TIES-Merging: trim, elect sign, disjoint merge (Yadav et al. 2023, Algorithm 1).

    https://arxiv.org/abs/2306.01708. Merged are the differences of the models from the one that all
    of them were fine-tuned from:

    1. Trim: each model keeps the `density` of its differences that are largest, over all weights.
    2. Elect: the sign of every weight is that of the sum of what is left.
    3. Merge: the mean of those that have this sign, without the trimmed ones, times `scale`.

    Args:
        models: The models' weights.
        base: Weights of the model they come from. What it lacks (a classification head) is
            averaged.
        density: Share of its differences that each model keeps (the paper: 0.2).
        scale: The paper's lambda (1 without data to choose it).

    Returns:
        The merged weights, in the types of the first model.
    """
    lowest = [_threshold(model, base, density) for model in models]
    merged = {}
    for name, first in models[0].items():
        if name not in base:
            merged[name] = average([model[name] for model in models])
            continue
        changes = torch.stack([model[name].float() - base[name].float() for model in models])
        kept = changes.abs() >= torch.tensor(lowest).view(-1, *[1] * first.dim()).to(changes)
        changes = changes * kept
        agreeing = changes.sign() == changes.sum(0).sign()
        # A trimmed change has the sign 0, which is elected only where nothing is left.
        mean = (changes * agreeing).sum(0) / (agreeing & kept).sum(0).clamp(min=1)
        merged[name] = (base[name].float() + scale * mean).to(first.dtype)
    return merged


def _threshold(model: Weights, base: Mapping[str, Tensor], density: float) -> float:
    """The smallest size among the largest differences from the base."""
    sizes = torch.cat(
        [
            (value.float() - base[name].float()).abs().flatten()
            for name, value in model.items()
            if name in base
        ]
    )
    trimmed = len(sizes) - max(1, round(density * len(sizes)))
    return float(sizes.kthvalue(trimmed + 1).values)
