"""Merging: the suspect model's weights averaged with those of models without its backdoor.

Arora et al. 2024, "Here's a Free Lunch: Sanitizing Backdoored Models with Model Merge"
(https://arxiv.org/abs/2402.19334). All models have one architecture and answer the same labels.

- `linear`: the uniform average of all of them, weight by weight.
- `slerp`: half-way between two on the sphere, tensor by tensor.
- `ties`: what the models changed in their common base, without what is small or contradicts.

Without other models there is nothing to average with; then one is fine-tuned here on clean data,
from a pretrained model of the same architecture, and the record says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import Field, PositiveFloat

from w2sdefense.config import FullTrainingConfig, Settings, StudentConfig, TrainingConfig, setting
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need
from w2sdefense.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from w2sdefense.victim import Victim

Weights: TypeAlias = "dict[str, Tensor]"
"""Name of a weight -> its values, as in a state dict."""

PARALLEL = 0.9995
"""Tensors whose cosine is beyond this are averaged: the angle between them is too small to use."""


class MergeConfig(Settings):
    """Merging: the weights of several models are averaged."""

    models: tuple[str, ...] = setting(
        (),
        "Fine-tuned models of the same architecture and labels to merge with; may be "
        "given several times.",
        files=True,
    )
    method: Literal["linear", "slerp", "ties"] = setting(
        "linear",
        "linear: uniform average; slerp: on the sphere, for two models; ties: of what "
        "they changed in their base, without what is small or contradicts.",
    )
    density: Annotated[float, Field(gt=0.0, le=1.0)] = setting(
        0.2, "Share of its changes that each model keeps, by size (ties).", advanced=True
    )
    scale: PositiveFloat = setting(
        1.0,
        "What the merged changes are multiplied with (ties; the paper's lambda).",
        advanced=True,
    )
    base: str = setting(
        "smollm2-135m",
        "Model that all were fine-tuned from (ties). Without other models: what a "
        "clean one is fine-tuned from.",
        files=True,
    )


@dataclass(frozen=True)
class Merge(Defense):
    """Averages the victim with other models."""

    merging: MergeConfig = field(default_factory=MergeConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    full: FullTrainingConfig = field(default_factory=FullTrainingConfig)

    name: ClassVar[str] = "merge"
    title: ClassVar[str] = "Merge"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA, Need.OTHER_MODELS)
    leaves: ClassVar[Leaves] = Leaves.MODEL

    def trains(self) -> bool:
        """Only where no other model is named."""
        return not self.merging.models

    def check(self) -> None:
        """Look for the other models, and for the base where it is used."""
        from w2sdefense.models.checkpoint import resolve_whole

        config = self.merging
        if config.method == "slerp" and len(config.models) > 1:
            raise ConfigError(
                f"slerp is between two models, and {len(config.models)} others are named.",
                "Name one --merge-models, or use --merge-method linear.",
            )
        uses_base = config.method == "ties" or not config.models
        for name in (*config.models, *([config.base] if uses_base else [])):
            resolve_whole(name, "Name its merged model.")

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Replace the victim's weights by the merged ones."""
        from w2sdefense.models.adapters import folded

        victim.model = folded(victim.model)
        own = victim.model.state_dict()
        others = [self._weights(name, victim, own) for name in self.merging.models]
        if not others:
            others = [self._train(victim, own, kit)]
        victim.model.load_state_dict(self._merged(victim, [own, *others]))
        victim.found |= {"merged_models": 1 + len(others), "merged_by": self.merging.method}
        return victim

    def _merged(self, victim: Victim, models: list[Weights]) -> Weights:
        if self.merging.method == "ties":
            base = self._base(victim, models[0])
            return ties(models, base, self.merging.density, self.merging.scale)
        merge = slerp if self.merging.method == "slerp" else average
        return {name: merge([model[name] for model in models]) for name in models[0]}

    def _base(self, victim: Victim, own: Weights) -> Weights:
        """The base's weights without the head: a language model has none to compare with."""
        name = self.merging.base
        base = self._open(name, victim, fresh_head=True)
        prefix = f"{victim.model.base_model_prefix}."
        weights = _fitting(name, base, own)
        return {key: value for key, value in weights.items() if key.startswith(prefix)}

    def _weights(self, name: str, victim: Victim, own: Weights) -> Weights:
        other = self._open(name, victim)
        if other.label_names != victim.label_names:
            raise ModelError(
                f"{name} answers {', '.join(other.label_names)}, the model to defend "
                f"{', '.join(victim.label_names)}.",
                "Merge models with the same labels in the same order.",
            )
        return _fitting(name, other, own)

    def _train(self, victim: Victim, own: Weights, kit: DefenseKit) -> Weights:
        """Weights of a model that never saw the attacker's data; it is kept in `clean/`.

        Its checkpoints stay until the run is measured, so one that is cut off does not train again.
        """
        from w2sdefense.training.trainer import this_process

        base = self.merging.base
        clean = self._open(base, victim, fresh_head=True)
        _fitting(base, clean, own)
        kit.fine_tune(clean, self.full.applied_to(self.training), "clean model")
        if this_process().is_main_process:
            clean.save(kit.folder / "clean")
        victim.history = clean.history
        victim.notes += (
            f"no other model was named: one was fine-tuned from {base} on the clean training data "
            "and merged with",
        )
        return _fitting(base, clean, own)

    def _open(self, model: str, victim: Victim, *, fresh_head: bool = False) -> Victim:
        from w2sdefense.victim import load_victim

        values = {"model": model, "max_length": victim.max_length}
        values["dtype"] = str(victim.model.dtype).removeprefix("torch.")
        other = load_victim(
            StudentConfig.model_validate(values),
            victim.label_names,
            task=victim.task.name,
            fresh_head_seed=self.training.seed if fresh_head else None,
        )
        if victim.task.text_answers:
            # The prompt is the victim's, whatever model it is put to.
            other.task = victim.task
        return other


def _fitting(name: str, other: Victim, own: Weights) -> Weights:
    """The weights of another model, if they are of the same shapes."""
    model: Any = other.model
    weights: Weights = {
        key: value.to(own[key].device) if key in own else value
        for key, value in model.state_dict().items()
    }
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    wanted = {key: tuple(value.shape) for key, value in own.items()}
    differing = sorted(shapes.items() ^ wanted.items())
    if differing:
        raise ModelError(
            f"{name} is not of the architecture of the model to defend: they differ in "
            f"{len(differing)} weights, such as {differing[0][0]}.",
            "Name models of the same architecture (--merge-models, or --merge-base to train one).",
        )
    return weights


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
    angle = math.acos(cosine)
    return (math.sin(angle / 2) / math.sin(angle) * (one + other)).to(values[0].dtype)


def ties(
    models: Sequence[Weights], base: Mapping[str, Tensor], density: float, scale: float
) -> Weights:
    """TIES-Merging: trim, elect sign, disjoint merge (Yadav et al. 2023, Algorithm 1).

    https://arxiv.org/abs/2306.01708. Merged are the differences of the models from the one that all
    of them were fine-tuned from:

    1. Trim: each model keeps the `density` (the paper: 0.2) of its differences that are largest,
    over    all weights. 2. Elect: the sign of every weight is that of the sum of what is left. 3.
    Merge: the mean of those that have this sign, without the trimmed ones, times `scale` (lambda).

    Returns:
        The weights, in the types of the first model; what the base lacks (a head) is averaged.
    """
    import torch

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
    import torch

    sizes = torch.cat(
        [
            (value.float() - base[name].float()).abs().flatten()
            for name, value in model.items()
            if name in base
        ]
    )
    trimmed = len(sizes) - max(1, round(density * len(sizes)))
    return float(sizes.kthvalue(trimmed + 1).values)
