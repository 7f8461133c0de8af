"""Quantization: the fine-tuned model in 4-bit NormalFloat (NF4), by bitsandbytes.

Rounding weights disturbs whatever small differences a backdoor rests on; it is no defense that was
made for this, but a model is often deployed so. The model is fine-tuned on clean data first, and
rounded as `models/four_bit.py` says. The record states the bits and the sizes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from w2sdefense.config import DefendRun, QuantizationConfig
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.defenses.finetune import FineTuning
from w2sdefense.defenses.lora import LoRA
from w2sdefense.models.adapters import folded
from w2sdefense.models.four_bit import (
    keep_exact,
    nf4,
    require_bitsandbytes,
    require_whole_blocks,
)
from w2sdefense.models.quiet import quiet_transformers
from w2sdefense.victim import Victim


@dataclass(frozen=True)
class Quantization:
    """Fine-tunes the victim and rounds it to four bits.

    Attributes:
        config: How it is fine-tuned before.
        lora: The fine-tuning through an adapter, which is folded in.
        full: The fine-tuning of all parameters.
    """

    config: QuantizationConfig = field(default_factory=QuantizationConfig)
    lora: LoRA = field(default_factory=LoRA)
    full: FineTuning = field(default_factory=FineTuning)

    name: ClassVar[str] = "quantization"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.CLEAN_DATA, Need.BITSANDBYTES})
    leaves: ClassVar[Leaves] = Leaves.MODEL

    @classmethod
    def from_run(cls, run: DefendRun) -> Self:
        """Take the settings of a run.

        Raises:
            MissingDependencyError: bitsandbytes is not installed.
        """
        require_bitsandbytes()
        return cls(run.quantization, LoRA.from_run(run), FineTuning.from_run(run))

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fine-tune the victim, unless that is turned off, and quantize it.

        Raises:
            ModelError: It has layers that four bits do not fit.
        """
        victim.model = folded(victim.model)
        require_whole_blocks(victim.model)
        if self.config.training == "lora":
            victim = self.lora.apply(victim, kit)
        elif self.config.training == "full":
            victim = self.full.apply(victim, kit)
        victim.model = folded(victim.model)
        before = _bytes(victim.model)
        linear = sum(
            module.weight.numel()
            for name, module in victim.model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(victim.model.base_model_prefix)
        )
        victim.model = quantize(victim.model)
        victim.found |= {
            "bits": 4,
            "type": "NF4",
            "quantized_weights": linear,
            "weights": victim.model.num_parameters(),
            "bytes_before": before,
            "bytes": _bytes(victim.model),
        }
        return victim


def quantize(model: Any) -> Any:
    """A model with the linear layers of its transformer in NF4, on the same device.

    The computation stays in the type that the other weights have.
    """
    # transformers quantizes while it loads, so the model goes through a folder once.
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        model.save_pretrained(folder)
        rounded = type(model).from_pretrained(
            folder,
            quantization_config=nf4(model, model.dtype),
            dtype=model.dtype,
            device_map={"": model.device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    keep_exact(rounded)
    return rounded.eval()


def _bytes(model: nn.Module) -> int:
    """Size of all weights, with the scales of quantized ones."""
    return sum(value.nbytes for value in model.state_dict().values())
