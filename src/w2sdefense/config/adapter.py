"""The settings of the PEFT adapter that a student is trained through.

Which settings belong to which method is written down here once: one that is set for a method that
does not know it is an error, not ignored.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w2sdefense.config.settings import ADVANCED, Fraction, Positive, Settings

AdapterName = Literal["lora", "dora", "vera", "fourierft", "p-tuning", "prompt-tuning"]

VIRTUAL_TOKENS = ("p-tuning", "prompt-tuning")
"""Methods that put trained embeddings before the text and change no weight of the model."""

_WEIGHTS: tuple[AdapterName, ...] = ("lora", "dora", "vera", "fourierft")

ADAPTER_OWNERS: dict[str, tuple[AdapterName, ...]] = {
    "lora_r": ("lora", "dora"),
    "lora_alpha": ("lora", "dora"),
    "lora_dropout": ("lora", "dora"),
    "vera_r": ("vera",),
    "fourier_frequencies": ("fourierft",),
    "fourier_scaling": ("fourierft",),
    "virtual_tokens": ("p-tuning", "prompt-tuning"),
    "encoder_width": ("p-tuning",),
    "target_modules": _WEIGHTS,
    "adapter_layers": _WEIGHTS,
}
"""Setting -> the methods that it is one of."""


class AdapterConfig(Settings):
    """The PEFT adapter that the student is trained through."""

    adapter: AdapterName = Field(
        "lora",
        description="PEFT method. p-tuning and prompt-tuning put trained embeddings before the "
        "text and change no weight, so they cannot be merged; the others change linear layers.",
    )
    lora_r: Positive = Field(64, description="Rank of LoRA and DoRA (the paper: 512).")
    lora_alpha: Positive | None = Field(
        None,
        description="Alpha of LoRA and DoRA; default: the rank.",
        json_schema_extra=ADVANCED,
    )
    lora_dropout: Fraction = Field(
        0.1, description="Dropout of LoRA and DoRA.", json_schema_extra=ADVANCED
    )
    vera_r: Positive = Field(256, description="Rank of VeRA's frozen matrices.")
    fourier_frequencies: Positive = Field(
        1000, description="Trained frequencies of FourierFT for every linear layer."
    )
    fourier_scaling: Annotated[float, Field(gt=0.0)] = Field(
        150.0, description="Factor of FourierFT's change of the weights."
    )
    virtual_tokens: Positive = Field(
        32, description="Embeddings before the text, for p-tuning and prompt-tuning."
    )
    encoder_width: Positive = Field(128, description="Width of the prompt encoder of p-tuning.")
    target_modules: str | None = Field(
        "all-linear",
        description="Comma-separated module names, or all-linear (the paper: PEFT's default for "
        "the architecture, for Llama q_proj,v_proj).",
    )
    adapter_layers: str | None = Field(
        None,
        description="Layers that carry adapters, FIRST:LAST (Python slice, 20: is 20 to the top).",
        json_schema_extra=ADVANCED,
    )

    @property
    def has_virtual_tokens(self) -> bool:
        """Whether the method puts virtual tokens before the text."""
        return self.adapter in VIRTUAL_TOKENS

    @model_validator(mode="after")
    def _settings_of_the_method(self) -> Self:
        for name, owners in ADAPTER_OWNERS.items():
            default = type(self).model_fields[name].default
            if self.adapter not in owners and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is a setting of {' and '.join(owners)}, not of {self.adapter}"
                )
        return self
