"""PEFT adapters from settings: which method, how large, on which modules and layers.

LoRA, DoRA, VeRA and FourierFT change linear layers; p-tuning and prompt-tuning put virtual tokens
before the text. As is PEFT's default for sequence classification, the head is trained and saved
with the adapter; the output layer of a language model stays as it is. AdaLoRA is not covered: what
it decides ranks by is in none of its checkpoints, so neither the best epoch nor a resumed training
would be what was trained.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, cast

from peft import (
    FourierFTConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from w2sdefense.config import AdapterConfig
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.models.features import linear_layers
from w2sdefense.models.fused_lora import FusedLoraLinear
from w2sdefense.models.tokenizer import has_virtual_tokens, pads_left, positions_of

_MODULES = "Choose --target-modules that the model has, or all-linear."
_FIXES = {
    "lora": _MODULES,
    "dora": _MODULES,
    "vera": _MODULES,
    "fourierft": "Choose other --target-modules, or fewer --fourier-frequencies.",
    "p-tuning": "Choose another --adapter.",
    "prompt-tuning": "Choose another --adapter.",
}


def attach_adapter(model: PreTrainedModel | PeftModel, config: AdapterConfig) -> PeftModel:
    """Wrap a classifier or a language model in a fresh adapter; its weights are frozen, not copied.

    An adapter that it carries already is folded in first. Fresh LoRA and DoRA weights change no
    answer before the first step; virtual tokens, VeRA and FourierFT do, as in their papers.

    Raises:
        ConfigError: A target module or a layer does not exist, or the method does not fit the
            model.
        ModelError: It carries an adapter that cannot be folded in.
    """
    model = folded(model)
    task = TaskType.CAUSAL_LM if model.can_generate() else TaskType.SEQ_CLS
    make = _virtual_tokens if config.has_virtual_tokens else _on_weights
    try:
        adapted = get_peft_model(model, make(model, config, task))
    except ValueError as error:
        raise ConfigError(
            f"The adapter {config.adapter} does not fit {type(model).__name__}: {error}",
            _FIXES[config.adapter],
        ) from None
    if pads_left(model):
        count_positions(adapted)
    return cast(PeftModel, adapted)


def folded(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """A model as it is without a wrapper: the adapter that it carries is folded into its weights.

    Virtual tokens and weights of four bits raise `ModelError`.
    """
    if not isinstance(model, PeftModel):
        return model
    if has_virtual_tokens(model):
        raise ModelError(
            "Virtual tokens are no change of the weights, so they cannot be folded into a model.",
            "Name a whole model, or an adapter of another kind (lora, dora, vera, fourierft).",
        )
    if is_quantized(model.get_base_model()):
        raise ModelError(
            "An adapter that is folded into weights of four bits is rounded with them.",
            "Open its base without --load-in-4bit.",
        )
    require_mergeable(model)
    return cast(PreTrainedModel, model.merge_and_unload())


def require_mergeable(model: PeftModel) -> None:
    """Raise `ModelError` if an adapter sits on a weight that is used twice (tied)."""
    used = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        weight = getattr(module.get_base_layer(), "weight", None)
        if used[id(weight)] > 1:
            raise ModelError(
                f"The adapter on {name.removeprefix('base_model.model.')} cannot be folded in: "
                "its weight is that of another layer, too (tied embeddings), which would change.",
                "Choose other --target-modules, or leave --merge out and use the adapter on its "
                "base.",
            )


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of a model are rounded to a few bits: they cannot be trained themselves."""
    return bool(getattr(model, "is_quantized", False))


def _virtual_tokens(model: PreTrainedModel, config: AdapterConfig, task: TaskType) -> PeftConfig:
    tokens: dict[str, Any] = {"task_type": task, "num_virtual_tokens": config.virtual_tokens}
    if config.adapter == "p-tuning":
        return PromptEncoderConfig(**tokens, encoder_hidden_size=config.encoder_width)
    # PEFT's random vectors are many times longer than the embeddings of tokens. Lester et al. 2021
    # (https://arxiv.org/abs/2104.08691) start from tokens.
    return PromptTuningConfig(**tokens, prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB)


def _on_weights(model: PreTrainedModel, config: AdapterConfig, task: TaskType) -> PeftConfig:
    layers = _layers(config.adapter_layers, model.config.num_hidden_layers)
    targets = None
    if config.target_modules == "all-linear":
        targets, layers = _linear_modules(model, layers), None
    elif config.target_modules is not None:
        targets = [name.strip() for name in config.target_modules.split(",")]
    where: dict[str, Any] = {
        "task_type": task,
        "target_modules": targets,
        "layers_to_transform": layers,
    }
    if config.adapter == "vera":
        return VeraConfig(**where, r=config.vera_r)
    if config.adapter == "fourierft":
        return FourierFTConfig(
            **where, n_frequency=config.fourier_frequencies, scaling=config.fourier_scaling
        )
    lora = LoraConfig(
        **where,
        r=config.lora_r,
        lora_alpha=config.lora_alpha or config.lora_r,
        lora_dropout=config.lora_dropout,
        use_dora=config.adapter == "dora",
    )
    if not lora.use_dora and model.device.type == "cpu" and not is_quantized(model):
        lora._register_custom_module({nn.Linear: FusedLoraLinear})
    return lora


def _linear_modules(model: PreTrainedModel, layers: list[int] | None) -> list[str]:
    """Linear modules of some layers; PEFT's own "all-linear" takes all, and the head's."""
    names = list(linear_layers(model))
    if layers is None:
        return names
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


def count_positions(model: PeftModel) -> None:
    """Have a decoder count its positions without the padding behind its virtual tokens.

    PEFT drops the positions that it is handed, so how far a text stands from the virtual tokens,
    and what is answered, would depend on the other texts of the batch `[virtual
    tokens][padding][text]`. A model without virtual tokens is told its positions with the batch.
    """
    if has_virtual_tokens(model):
        model.base_model.register_forward_pre_hook(_add_positions, with_kwargs=True)


def _add_positions(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2 and kwargs.get("position_ids") is None:
        embeddings = kwargs.get("inputs_embeds")
        length = (kwargs["input_ids"] if embeddings is None else embeddings).shape[1]
        kwargs["position_ids"] = positions_of(mask.long())[:, -length:]
    return args, kwargs


def prompt_encoder(model: Any) -> nn.Module | None:
    """What makes the virtual tokens of p-tuning while it is trained; None for any other model.

    PEFT saves the embeddings that come out of it and not its weights: training cannot go on from
    that.
    """
    if not has_virtual_tokens(model) or model.active_peft_config.peft_type != PeftType.P_TUNING:
        return None
    encoder: nn.Module = model.prompt_encoder[model.active_adapter]
    return encoder
