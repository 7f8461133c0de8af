"""Merging: the suspect model's weights averaged with those of models without its backdoor.

Arora et al. 2024, "Here's a Free Lunch: Sanitizing Backdoored Models with Model Merge"
(https://arxiv.org/abs/2402.19334). All models have one architecture and answer the same labels.

- `linear`: the uniform average of all of them, weight by weight.
- `slerp`: half-way between two on the sphere, tensor by tensor (Shoemake 1985).

Without other models there is nothing to average with; then one is fine-tuned here on clean data,
from a pretrained model of the same architecture, and the record says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from peft import PeftModel
from torch import Tensor

from w2sdefense.config import MergeConfig, StudentConfig, TrainingConfig
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.models.load import resolve_model
from w2sdefense.models.safety import ADAPTER_CONFIG
from w2sdefense.run_config import DefendRun
from w2sdefense.training import remove_checkpoints, this_process
from w2sdefense.victim import Victim, fine_tune, load_victim, new_victim

Weights = dict[str, Tensor]

PARALLEL = 0.9995
"""Tensors whose cosine is beyond this are averaged: the angle between them is too small to use."""


@dataclass(frozen=True)
class Merge:
    """Averages the victim with other models.

    Attributes:
        config: With which models, and how.
        training: How a clean model is fine-tuned where none is named.
    """

    config: MergeConfig = field(default_factory=MergeConfig)
    training: TrainingConfig = field(default_factory=lambda: DefendRun().full_training())

    name: ClassVar[str] = "merge"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_DATA, Need.OTHER_MODELS})
    leaves: ClassVar[Leaves] = Leaves.MODEL

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run.

        Raises:
            ConfigError: More than one other model for `slerp`.
            ModelError: A model is not there, or is an adapter.
        """
        config = run.merging
        if config.method == "slerp" and len(config.models) > 1:
            raise ConfigError(
                f"slerp is between two models, and {len(config.models)} others are named.",
                "Name one --merge-models, or use --merge-method linear.",
            )
        for name in config.models or (config.base,):
            if (resolve_model(name) / ADAPTER_CONFIG).is_file():
                raise ModelError(f"{name} is an adapter.", "Name its merged model.")
        return cls(config, run.full_training())

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Replace the victim's weights by the merged ones."""
        if isinstance(victim.model, PeftModel):
            victim.model = victim.model.merge_and_unload()
        own = victim.model.state_dict()
        others = [self._weights(name, victim, own) for name in self.config.models]
        if not others:
            others = [self._train(victim, own, kit)]
        merge = slerp if self.config.method == "slerp" else average
        victim.model.load_state_dict(
            {name: merge([value, *(o[name] for o in others)]) for name, value in own.items()}
        )
        victim.found |= {"merged_models": 1 + len(others), "merged_by": self.config.method}
        return victim

    def _weights(self, name: str, victim: Victim, own: Weights) -> Weights:
        other = load_victim(self._config(name, victim), victim.label_names)
        if other.label_names != victim.label_names:
            raise ModelError(
                f"{name} answers {', '.join(other.label_names)}, the model to defend "
                f"{', '.join(victim.label_names)}.",
                "Merge models with the same labels in the same order.",
            )
        return _fitting(name, other, own)

    def _train(self, victim: Victim, own: Weights, kit: DefenseKit) -> Weights:
        """Weights of a model that never saw the attacker's data; it is kept in `clean/`."""
        base, folder = self.config.base, kit.folder / "clean"
        clean = new_victim(self._config(base, victim), victim.label_names, self.training.seed)
        _fitting(base, clean, own)
        fine_tune(
            clean,
            kit.data.train,
            self.training,
            folder,
            validation=kit.data.validation,
            resume=kit.resume,
            progress=kit.progress_of("clean model"),
        )
        if this_process().is_main_process:
            clean.save(folder)
            remove_checkpoints(folder)
        victim.history = clean.history
        victim.notes += (
            f"no other model was named: one was fine-tuned from {base} on the clean training data "
            "and merged with",
        )
        return _fitting(base, clean, own)

    @staticmethod
    def _config(model: str, victim: Victim) -> StudentConfig:
        values = {"model": model, "max_length": victim.max_length}
        values["dtype"] = str(victim.model.dtype).removeprefix("torch.")
        return StudentConfig.model_validate(values)


def average(values: Sequence[Tensor]) -> Tensor:
    """The uniform average of tensors of one shape, in the type of the first."""
    mean: Tensor = sum(value.float() for value in values) / len(values)  # type: ignore[assignment]
    return mean.to(values[0].dtype)


def slerp(values: Sequence[Tensor]) -> Tensor:
    """Half-way between two tensors along the great circle of their directions.

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
