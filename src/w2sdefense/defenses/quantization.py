"""Quantization: the fine-tuned model in 4-bit NormalFloat (NF4), by bitsandbytes.

Rounding weights disturbs whatever small differences a backdoor rests on; it is no defense that was
made for this, but a model is often deployed so. The model is fine-tuned on clean data first
(Dettmers et al. 2023, https://arxiv.org/abs/2305.14314, describe NF4). Only linear layers of the
transformer become 4-bit; embeddings, norms and the classification head stay as they are. It runs on
CPU and GPU. The record states the bits and the sizes.
"""

from __future__ import annotations

import importlib.util
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from peft import PeftModel
from torch import nn
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from w2sdefense.config import QuantizationConfig
from w2sdefense.defenses.base import DefenseKit, Leaves, Need
from w2sdefense.defenses.finetune import FineTuning
from w2sdefense.defenses.lora import LoRA
from w2sdefense.errors import MissingDependencyError
from w2sdefense.models.quiet import quiet_transformers
from w2sdefense.run_config import DefendRun
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
        if importlib.util.find_spec("bitsandbytes") is None:
            raise MissingDependencyError(
                "Quantization needs the package bitsandbytes.",
                "Run: pip install 'w2sdefense[quantization]'",
            )
        return cls(run.quantization, LoRA.from_run(run), FineTuning.from_run(run))

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fine-tune the victim, unless that is turned off, and quantize it."""
        if self.config.training == "lora":
            victim = self.lora.apply(victim, kit)
        elif self.config.training == "full":
            victim = self.full.apply(victim, kit)
        if isinstance(victim.model, PeftModel):
            victim.model = victim.model.merge_and_unload()
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
    """A classifier with the linear layers of its transformer in NF4, on the same device.

    The computation stays in the type that the other weights have.
    """
    prefix = model.base_model_prefix
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=model.dtype,
        # Whatever is beside the transformer is the head.
        llm_int8_skip_modules=[name for name, _ in model.named_children() if name != prefix],
    )
    # transformers quantizes while it loads, so the model goes through a folder once.
    with tempfile.TemporaryDirectory() as name, quiet_transformers():
        folder = Path(name)
        model.save_pretrained(folder)
        return AutoModelForSequenceClassification.from_pretrained(
            folder,
            quantization_config=settings,
            dtype=model.dtype,
            device_map={"": model.device},
            use_safetensors=True,
            trust_remote_code=False,
        ).eval()


def _bytes(model: nn.Module) -> int:
    """Size of all weights, with the scales of quantized ones."""
    return sum(value.nbytes for value in model.state_dict().values())
