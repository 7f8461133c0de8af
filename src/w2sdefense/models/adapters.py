"""Makes PEFT adapters from settings (method, size, modules), and merges them.

LoRA and DoRA change linear layers; p-tuning and prompt-tuning put virtual tokens before the text.
As by default in PEFT, the head of a classifier is trained and saved with the adapter; the output
layer of a language model does not change. AdaLoRA is not supported: its checkpoints lack the state
that determines its ranks, so neither the best epoch nor a resumed training could be restored.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PeftType,
    PromptEncoderConfig,
    PromptTuningConfig,
    PromptTuningInit,
    TaskType,
    get_peft_model,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from w2sdefense.config import AdapterConfig
from w2sdefense.errors import ConfigError, ModelError, reading
from w2sdefense.models.checkpoint import Checkpoint
from w2sdefense.models.embedded import quiet_transformers
from w2sdefense.models.features import linear_layers
from w2sdefense.models.fused_lora import FusedLoraLinear
from w2sdefense.models.tokenizer import has_virtual_tokens, pads_left, positions_of

_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Maximum difference of logits before and after a merge, relative to the largest logit.

A merge rounds each weight once more, to a relative 2^-24, 2^-8 or 2^-11, which over 32 layers adds
up to about 6 times as much. Every tolerance is at least four times that; a wrong merge gives about
1.
"""

_AS_IT_IS = (
    "Choose other --target-modules, or omit --merge and use the adapter on its unchanged base."
)


def attach_adapter(model: PreTrainedModel | PeftModel, config: AdapterConfig) -> PeftModel:
    """Wrap a classifier or a language model in a fresh adapter; its weights are frozen, not copied.

    An adapter that the model already has is merged first. Fresh LoRA and DoRA weights do not change
    answers before the first step; virtual tokens do, as in their papers.

    Raises:
        ConfigError: A target module or a layer does not exist, or the method does not fit the
            model.
        ModelError: The model has an adapter that cannot be merged.
    """
    model = folded(model)
    task = TaskType.CAUSAL_LM if model.can_generate() else TaskType.SEQ_CLS
    make = _virtual_tokens if config.has_virtual_tokens else _on_weights
    try:
        adapted = get_peft_model(model, make(model, config, task))
    except ValueError as error:
        raise ConfigError(
            f"The adapter {config.adapter} does not fit {type(model).__name__}: {error}",
            "Choose another --adapter."
            if config.has_virtual_tokens
            else "Choose --target-modules that the model has, or all-linear.",
        ) from None
    if pads_left(model):
        count_positions(adapted)
    return cast(PeftModel, adapted)


def skeleton_of(checkpoint: Checkpoint, *, writes: bool) -> PreTrainedModel:
    """A whole model on the meta device, as a language model (`writes`) or a classifier.

    Raises:
        ModelError: The architecture does not support this.
    """
    kind = AutoModelForCausalLM if writes else AutoModelForSequenceClassification
    cannot = f"{checkpoint.spec} cannot {'write' if writes else 'classify text'}"
    with (
        reading(ModelError, cannot, "Name a model of another architecture."),
        torch.device("meta"),
        quiet_transformers(),
    ):
        return cast(PreTrainedModel, kind.from_config(checkpoint.config, trust_remote_code=False))


def check_adapter(
    checkpoint: Checkpoint, adapter: AdapterConfig, *, writes: bool, merge: bool
) -> None:
    """Check an adapter by attaching it to a skeleton of the model.

    Raises:
        ConfigError: The adapter does not fit the model.
        ModelError: The adapter cannot be merged (if `merge`), or the architecture cannot do the
            task.
    """
    adapted = attach_adapter(skeleton_of(checkpoint, writes=writes), adapter)
    if merge:
        require_mergeable(adapted)


def folded(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The plain model: an adapter that it has is merged into its weights.

    Raises:
        ModelError: The adapter cannot be merged, or merging changes the answers.
    """
    if not isinstance(model, PeftModel):
        return model
    require_mergeable(model)
    model.eval()
    before = answers_to_ids(model)
    with reading(ModelError, "The adapter cannot be merged", _AS_IT_IS):
        merged = cast(PreTrainedModel, model.merge_and_unload())
    require_merged(before, answers_to_ids(merged), merged.dtype)
    return merged


def require_mergeable(model: PeftModel) -> None:
    """Raise a `ModelError` if an adapter cannot be merged, or is on a tied weight."""
    if has_virtual_tokens(model):
        raise ModelError(
            "Virtual tokens cannot be merged into the weights of a model.",
            "Name a whole model, or an adapter of another kind (lora, dora, vera, fourierft).",
        )
    if is_quantized(model.get_base_model()):
        raise ModelError(
            "Merging an adapter into 4-bit weights would round it.",
            "Open its base without --load-in-4bit.",
        )
    used = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    why = None if hasattr(model.base_model, "merge_and_unload") else "it adds layers of its own"
    for name, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        layer: Any = module.get_base_layer()
        if used[id(getattr(layer, "weight", None))] > 1:
            why = "its weight is that of another layer, too (tied embeddings), which would change"
        elif any(getattr(module, "lora_bias", {}).values()) and layer.bias is None:
            why = "it adds a bias where its base has none"
        if why:
            name = name.removeprefix("base_model.model.")
            raise ModelError(f"The adapter on {name} cannot be merged: {why}.", _AS_IT_IS)
    if why:
        raise ModelError(f"The adapter cannot be merged: {why}.", _AS_IT_IS)


def require_merged(before: list[Tensor], after: list[Tensor], dtype: torch.dtype) -> None:
    """Raise a `ModelError` unless logits on some texts agree before and after a merge."""
    scale = max(float(logits.abs().max()) for logits in before)
    worst = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    # Written so that NaN raises, too.
    if not worst <= _TOLERANCE[dtype] * scale:
        raise ModelError(
            "Merging the adapter changes the answers of the model: logits differ by "
            f"{worst:.3g}, the largest is {scale:.3g}. Nothing was written.",
            _AS_IT_IS,
        )


def answers_to_ids(model: Any) -> list[Tensor]:
    """Logits on tokens spread over the whole vocabulary."""
    size = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, size, max(1, size // 8), device=model.device)[None, :8]
    with torch.inference_mode():
        return [model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float().cpu()]


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of a model are quantized, so that they cannot be trained."""
    return bool(getattr(model, "is_quantized", False))


def _virtual_tokens(model: PreTrainedModel, config: AdapterConfig, task: TaskType) -> PeftConfig:
    tokens: dict[str, Any] = {"task_type": task, "num_virtual_tokens": config.virtual_tokens}
    if config.adapter == "p-tuning":
        return PromptEncoderConfig(**tokens, encoder_hidden_size=config.encoder_width)
    # PEFT's random vectors are many times longer than token embeddings. Lester et al. 2021
    # (https://arxiv.org/abs/2104.08691) initialize with tokens.
    return PromptTuningConfig(**tokens, prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB)


def _on_weights(model: PreTrainedModel, config: AdapterConfig, task: TaskType) -> PeftConfig:
    targets = None
    if config.target_modules == "all-linear":
        targets = list(linear_layers(model))  # PEFT's own "all-linear" includes the head
    elif config.target_modules is not None:
        targets = [name.strip() for name in config.target_modules.split(",")]
    lora = LoraConfig(
        task_type=task,
        target_modules=targets,
        r=config.lora_r,
        lora_alpha=config.lora_alpha or config.lora_r,
        lora_dropout=config.lora_dropout,
        use_dora=config.adapter == "dora",
    )
    if not lora.use_dora and model.device.type == "cpu" and not is_quantized(model):
        lora._register_custom_module({nn.Linear: FusedLoraLinear})
    return lora


def count_positions(model: PeftModel) -> None:
    """Make a decoder skip the padding after its virtual tokens when it counts positions.

    PEFT drops the positions of the batch `[virtual tokens][padding][text]`. The distance between
    virtual tokens and text, and so the answer, would then depend on the other texts of the batch. A
    model without virtual tokens gets its positions with the batch.
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
    """The module that computes the virtual tokens of p-tuning in training; None for other models.

    PEFT saves only its output, not its weights, so training could not resume from that.
    """
    if not has_virtual_tokens(model) or model.active_peft_config.peft_type != PeftType.P_TUNING:
        return None
    encoder: nn.Module = model.prompt_encoder[model.active_adapter]
    return encoder
