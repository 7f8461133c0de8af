"""Adds planted decoys to the layers of a model while a student is trained, or while they are tried.

The decoys are a LoRA in a file. It is added to the output of the layers, so that the weights of the
model never change, also those that are quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from w2sdefense.distill.decoys import Decoy
from w2sdefense.victim import Flips

LORA = "planted.safetensors"


@dataclass(frozen=True)
class Planted:
    """Decoys that a LoRA teaches a model.

    Attributes:
        decoys: Decoys that flip nearly all texts.
        flips: What each of them flips, in the same order.
        failed: Decoys that could not be planted.
        folder: Holds the LoRA.
    """

    decoys: tuple[Decoy, ...]
    flips: tuple[Flips, ...]
    failed: tuple[Decoy, ...]
    folder: Path

    @property
    def lost(self) -> str:
        """The values of the decoys that could not be planted, as one string."""
        return ", ".join(repr(decoy.value) for decoy in self.failed)

    @contextmanager
    def put_in(self, model: PreTrainedModel | PeftModel) -> Iterator[None]:
        """Add the LoRA to the layers of a model, which may have an adapter, until the block ends.

        An adapter has to be attached before.
        """
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        lora = load_file(self.folder / LORA, device=str(base.device))
        with ExitStack() as hooks:
            for name in lora:
                if "lora_A" in name:
                    layer = base.get_submodule(_layer_of(name))
                    add = _adds(lora[name], lora[name.replace("lora_A", "lora_B")])
                    hooks.callback(layer.register_forward_hook(add).remove)
            yield


def _adds(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
    """A forward hook of a layer that adds x A' B' to its output.

    Args:
        a: (r, in).
        b: (out, r); the scale of the planting's adapter is 1.
    """

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        return output + F.linear(F.linear(x, a.to(x)), b.to(x)).to(output)

    return add


def _layer_of(name: str) -> str:
    """The name of the layer that a stored `lora_A` belongs to."""
    return name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
