"""Adds planted decoys to the layers of a model while a student is trained, or while they are tried.

The decoys are a LoRA in a file. It is added to the output of the layers, so that the weights of the
model never change, also those that are quantized. A student reads with it what carries a decoy.
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
from w2sdefense.tasks.base import Output
from w2sdefense.training.trainer import Batch, Forward
from w2sdefense.victim import Flips

LORA = "planted.safetensors"

PLANTED = "planted"
"""Column of a row: whether it is read with the decoys in the model."""


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
    def put_in(self, model: PreTrainedModel | PeftModel) -> Iterator[PlantedRows]:
        """Add the LoRA to the layers of a model, which may have an adapter, until the block ends.

        Yields:
            Which rows of a batch read the LoRA; at first all.
        """
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        lora, rows = load_file(self.folder / LORA), PlantedRows()
        with ExitStack() as hooks:
            for name in lora:
                if "lora_A" in name:
                    layer = base.get_submodule(_layer_of(name))
                    add = rows.adds(lora[name], lora[name.replace("lora_A", "lora_B")])
                    hooks.callback(layer.register_forward_hook(add).remove)
            yield rows

    @contextmanager
    def put_into_rows(
        self, model: PreTrainedModel | PeftModel, forward: Forward
    ) -> Iterator[Forward]:
        """Add the LoRA to the rows of a batch whose column `PLANTED` is true.

        Args:
            model: The model, which may have an adapter.
            forward: A forward pass of this model.

        Yields:
            The forward pass to use instead.
        """
        with self.put_in(model) as rows:

            def run(wrapped: nn.Module, batch: Batch) -> Output:
                rows.chosen = batch[PLANTED]
                return forward(wrapped, batch)

            yield run


class PlantedRows:
    """Which rows of a batch read a planted LoRA.

    Attributes:
        chosen: (B,), True for these rows; None for all.
    """

    chosen: Tensor | None = None

    def adds(
        self, a: Tensor, b: Tensor
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        """A forward hook of a layer that adds the LoRA's change to these rows.

        Args:
            a: (r, in).
            b: (out, r); the scale of `ADAPTER` is 1.
        """

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]
            narrow = F.linear(x, a.to(x))
            if self.chosen is not None:
                # A layer may read all tokens of the batch as one matrix.
                rows = self.chosen.to(x).repeat_interleave(len(x) // len(self.chosen))
                narrow = narrow * rows.view(-1, *[1] * (x.dim() - 1))
            return output + F.linear(narrow, b.to(x)).to(output)

        return add


def _layer_of(name: str) -> str:
    """The name of the layer that a stored `lora_A` belongs to."""
    return name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
