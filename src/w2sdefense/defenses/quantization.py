"""Quantization: fine-tunes with LoRA, then rounds the model to 4-bit NormalFloat (bitsandbytes).

Rounding may destroy the small weight differences that a backdoor depends on. Quantization was not
designed as a defense, but models are often deployed this way. The record states bits and sizes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from w2sdefense.config import AdapterConfig, TrainingConfig
from w2sdefense.defenses.base import Defense, DefenseKit, Leaves, Need
from w2sdefense.defenses.finetune import LoRA
from w2sdefense.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from w2sdefense.models.checkpoint import Checkpoint
    from w2sdefense.victim import Victim


@dataclass(frozen=True)
class Quantization(Defense):
    """Fine-tunes the victim and quantizes it to 4 bits."""

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    name: ClassVar[str] = "quantization"
    title: ClassVar[str] = "Quantization"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA, Need.BITSANDBYTES)
    leaves: ClassVar[Leaves] = Leaves.MODEL

    def check(self) -> None:
        """Check that bitsandbytes is installed and that the adapter can be merged."""
        from w2sdefense.models.weights import require_bitsandbytes

        if self.adapter.has_virtual_tokens:
            raise ConfigError(
                "Quantization merges the adapter, which is impossible for the virtual tokens of "
                f"{self.adapter.adapter}.",
                "Use --adapter lora.",
            )
        require_bitsandbytes()

    def check_model(self, student: Checkpoint, *, writes: bool) -> None:
        """Check that the layers can be quantized and the adapter can be merged before that."""
        from w2sdefense.models.adapters import check_adapter, skeleton_of
        from w2sdefense.models.weights import require_whole_blocks

        require_whole_blocks(skeleton_of(student.whole, writes=writes))
        check_adapter(student.whole, self.adapter, writes=writes, merge=True)

    def apply(self, victim: Victim, kit: DefenseKit) -> Victim:
        """Fine-tune the victim, merge the adapter, and quantize the result."""
        from torch import nn

        from w2sdefense.models.adapters import folded
        from w2sdefense.models.features import linear_layers
        from w2sdefense.models.weights import require_whole_blocks

        victim.model = folded(victim.model)
        require_whole_blocks(victim.model)
        victim = LoRA(self.adapter, self.training).apply(victim, kit)
        victim.model = folded(victim.model)
        before = _bytes(victim.model)
        layers = linear_layers(victim.model).values()
        linear = sum(m.weight.numel() for m in layers if isinstance(m, nn.Linear))
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
    """Return the model with the linear layers of its transformer in NF4, on the same device."""
    from w2sdefense.models.embedded import quiet_transformers
    from w2sdefense.models.weights import keep_exact, nf4

    # transformers quantizes only while loading, so the model is saved to a folder first.
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
    """Size of all weights in bytes, including the scales of quantized ones."""
    return sum(value.nbytes for value in model.state_dict().values())
