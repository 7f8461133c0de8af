"""Merging: averages the suspect's weights with those of models without its backdoor.

Arora et al. 2024, "Here's a Free Lunch: Sanitizing Backdoored Models with Model Merge"
(https://arxiv.org/abs/2402.19334). All models have the same architecture and labels; each weight is
the uniform average.

If no other models are named, one is fine-tuned on clean data from a pretrained model of the same
architecture, and the record says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from w2sdefense.config import FullTrainingConfig, Settings, StudentConfig, TrainingConfig, setting
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need
from w2sdefense.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from w2sdefense.models.checkpoint import Checkpoint
    from w2sdefense.victim import Victim

Weights: TypeAlias = "dict[str, Tensor]"  # name of a weight -> its values, as in a state dict


class MergeConfig(Settings):
    """Merging: the weights of several models are averaged."""

    models: tuple[str, ...] = setting(
        (),
        "Fine-tuned models of the same architecture and labels to merge with; may be "
        "given several times.",
        files=True,
    )
    base: str = setting(
        "smollm2-135m",
        "What a clean model is fine-tuned from where no other models are named.",
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
        """Whether a clean model must be trained: only if no other model is named."""
        return not self.merging.models

    def check(self) -> None:
        """Check that the other models, or the base of a clean one, are available."""
        self._others()

    def check_model(self, student: Checkpoint, *, writes: bool) -> None:
        """Check that the transformers of all models have weights of the same shapes."""
        from w2sdefense.models.adapters import skeleton_of

        def weights(model: Checkpoint) -> Weights:
            skeleton = skeleton_of(model, writes=writes)
            named = skeleton.get_submodule(skeleton.base_model_prefix).state_dict()
            return {f"{skeleton.base_model_prefix}.{key}": value for key, value in named.items()}

        for other in self._others():
            _fitting(other.spec, weights(other), weights(student.whole))

    def _others(self) -> list[Checkpoint]:
        from w2sdefense.models.checkpoint import resolve_whole

        names = self.merging.models or (self.merging.base,)
        return [resolve_whole(name, "Name its merged model.") for name in names]

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Replace the victim's weights by the merged ones."""
        from w2sdefense.models.adapters import folded

        victim.model = folded(victim.model)
        own = victim.model.state_dict()
        others = [self._weights(name, victim, own) for name in self.merging.models]
        if not others:
            others = [self._train(victim, own, kit)]
        models = [own, *others]
        victim.model.load_state_dict({name: average([m[name] for m in models]) for name in own})
        victim.found["merged_models"] = len(models)
        return victim

    def _weights(self, name: str, victim: Victim, own: Weights) -> Weights:
        other = self._open(name, victim)
        if other.label_names != victim.label_names:
            raise ModelError(
                f"{name} answers {', '.join(other.label_names)}, the model to defend "
                f"{', '.join(victim.label_names)}.",
                "Merge models with the same labels in the same order.",
            )
        return _fitting(name, other.model.state_dict(), own)

    def _train(self, victim: Victim, own: Weights, kit: DefenseKit) -> Weights:
        """Train a model that never saw the attacker's data; it is saved in `clean/`.

        Its checkpoints stay until the run is measured, so that a resumed run does not train again.
        """
        from w2sdefense.training.trainer import this_process

        base = self.merging.base
        clean = self._open(base, victim, fresh_head=True)
        _fitting(base, clean.model.state_dict(), own)
        kit.fine_tune(clean, self.full.applied_to(self.training), "clean model")
        if this_process().is_main_process:
            clean.save(kit.folder / "clean")
        victim.history = clean.history
        victim.notes += (
            f"no other model was named: one was fine-tuned from {base} on the clean training data "
            "and merged with",
        )
        return _fitting(base, clean.model.state_dict(), own)

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
            # All models must use the victim's prompt.
            other.task = victim.task
        return other


def _fitting(name: str, other: Weights, own: Weights) -> Weights:
    """The weights of another model on our devices; a `ModelError` if names or shapes differ."""
    weights = {
        key: value.to(own[key].device) if key in own else value for key, value in other.items()
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
    """The uniform average of tensors of one shape, in the dtype of the first."""
    mean: Tensor = sum(value.float() for value in values) / len(values)  # type: ignore[assignment]
    return mean.to(values[0].dtype)
