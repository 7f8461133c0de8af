"""PEFT adapters from settings: which method, how large, on which modules and layers.

LoRA only, for now. As is PEFT's default for sequence classification, the head is trained and saved
with the adapter; the output layer of a language model stays as it is.
"""

from __future__ import annotations

import re

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from w2sdefense.config import AdapterConfig
from w2sdefense.errors import ConfigError
from w2sdefense.models.fused_lora import FusedLoraLinear


def attach_adapter(model: PreTrainedModel | PeftModel, config: AdapterConfig) -> PeftModel:
    """Wrap a model in a fresh adapter; its own weights are frozen, not copied.

    Args:
        model: A sequence classifier, or a causal language model. An adapter that it carries already
            is folded in first.
        config: The adapter's settings.

    Returns:
        The wrapped model. Fresh LoRA weights change no answer before the first step.

    Raises:
        ConfigError: A target module or a layer does not exist in this model.
    """
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    layers = _layers(config.adapter_layers, model.config.num_hidden_layers)
    targets = None
    if config.target_modules == "all-linear":
        targets, layers = _linear_modules(model, layers), None
    elif config.target_modules is not None:
        targets = [name.strip() for name in config.target_modules.split(",")]
    peft_config = LoraConfig(
        task_type=TaskType.CAUSAL_LM if model.can_generate() else TaskType.SEQ_CLS,
        r=config.lora_r,
        lora_alpha=config.lora_alpha or config.lora_r,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        layers_to_transform=layers,
    )
    if model.device.type == "cpu" and not getattr(model, "is_quantized", False):
        peft_config._register_custom_module({nn.Linear: FusedLoraLinear})
    try:
        return get_peft_model(model, peft_config)
    except ValueError as error:
        raise ConfigError(
            f"The adapter does not fit {type(model).__name__}: {error}",
            "Choose --target-modules that the model has, or all-linear.",
        ) from None


def _linear_modules(model: PreTrainedModel, layers: list[int] | None) -> list[str]:
    """Names of the linear modules of the transformer, of some of its layers only if they are named.

    PEFT's own "all-linear" takes no layers, and takes a hidden layer of the head (DistilBERT's
    `pre_classifier`), which is trained whole already.
    """
    names = (
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(f"{model.base_model_prefix}.")
    )
    if layers is None:
        return list(names)
    numbers = ((re.search(r"\.(\d+)\.", name), name) for name in names)
    return [name for number, name in numbers if number and int(number[1]) in layers]


def _layers(text: str | None, count: int) -> list[int] | None:
    """Layer numbers of FIRST:LAST, a Python slice over the model's layers."""
    if text is None:
        return None
    try:
        first, last = (int(part) if part else None for part in text.split(":"))
    except ValueError:
        raise ConfigError(
            f"--adapter-layers {text!r} is not FIRST:LAST.", "Write for example 20: or 10:20."
        ) from None
    layers = list(range(count))[first:last]
    if not layers:
        raise ConfigError(
            f"--adapter-layers {text} selects none of the {count} layers.", "Choose other layers."
        )
    return layers
