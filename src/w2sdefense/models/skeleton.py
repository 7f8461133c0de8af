"""Counts the parameters of any model on a skeleton of it: every tensor has a shape and no memory.

The skeleton is built from the config alone and gets the adapter that a run would give it, so the
counts are those of what is trained. No weights are opened or fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
)
from transformers.pytorch_utils import Conv1D

from w2sdefense.config import AdapterConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.adapters import attach_adapter, require_mergeable
from w2sdefense.models.checkpoint import ADAPTER_CONFIG, Checkpoint
from w2sdefense.models.features import backbone_of
from w2sdefense.models.reading import quiet_transformers, reading
from w2sdefense.models.shapes import STUDENTS, Shape, Sizes


def read_config(spec: str) -> PretrainedConfig:
    """The config of a folder or a hub id; of a hub id nothing else is fetched.

    Raises:
        ModelError: There is none, it is an adapter's, or of an architecture that transformers does
            not ship.
    """
    if (Path(spec).expanduser() / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec} is an adapter.", "Name the model that it was trained on.")
    fix = f"Name a folder with a config.json, or, without a connection: {', '.join(STUDENTS)}."
    with reading(f"The config of {spec}", fix=fix):
        folder = Path(spec).expanduser().as_posix()
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def config_of(shape: Shape) -> PretrainedConfig:
    """The config of a student whose shape is known."""
    kind = Qwen2Config if shape.qkv_bias else LlamaConfig
    return kind(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )


def check_adapter(
    checkpoint: Checkpoint, adapter: AdapterConfig, *, writes: bool, merge: bool
) -> None:
    """Attach an adapter to a skeleton of a model, so that what does not fit comes out at once.

    Args:
        checkpoint: The model.
        adapter: The adapter's settings.
        writes: Whether it is to write text, rather than to classify it.
        merge: Whether the adapter is to be folded in.

    Raises:
        ConfigError: The adapter does not fit the model.
        ModelError: The adapter cannot be folded in, or the architecture has no classifier.
    """
    kind = AutoModelForCausalLM if writes else AutoModelForSequenceClassification
    skeleton = _skeleton(kind, checkpoint.config, checkpoint.spec)
    adapted = attach_adapter(skeleton, adapter)
    if merge:
        require_mergeable(adapted)


def skeleton_sizes(
    spec: str, config: PretrainedConfig, adapter: AdapterConfig, labels: int
) -> Sizes:
    """Count the parameters of a classifier with its adapter.

    Args:
        spec: Name of the student.
        config: Its config.
        adapter: The adapter's settings.
        labels: Number of labels C.

    Raises:
        ConfigError: The adapter does not fit.
        ModelError: The architecture has no classifier.
    """
    config.num_labels = labels
    model = _skeleton(AutoModelForSequenceClassification, config, spec)
    backbone = backbone_of(model)
    whole = _count(model)
    linears = [m for m in backbone.modules() if isinstance(m, nn.Linear | Conv1D)]
    pieces = [_count(module) for blocks in _lists(backbone) for module in blocks]
    embedding = _count(backbone.get_input_embeddings())
    writes = type(config) in AutoModelForCausalLM._model_mapping
    language_model = _count(_skeleton(AutoModelForCausalLM, config, spec)) if writes else None
    adapted = attach_adapter(model, adapter)
    trained = {n: p.numel() for n, p in adapted.named_parameters() if p.requires_grad}
    head = sum(count for name, count in trained.items() if "modules_to_save" in name)
    carriers = [m for m in adapted.modules() if hasattr(m, "lora_A") and len(m.lora_A)]
    text: Any = config.get_text_config()
    heads = text.num_attention_heads
    per_head = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Sizes(
        model=spec,
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        queries=heads * per_head,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * per_head,
        intermediate=_intermediate(text),
        gated=any("gate" in name for name, _ in backbone.named_modules()),
        backbone=whole - head,
        language_model=language_model,
        head=head,
        adapter=sum(trained.values()) - head,
        linear=sum(module.weight.numel() for module in linears),
        largest=max([embedding, *pieces]),
        adapted_inputs=sum(module.in_features for module in carriers),
        adapted_ranks=sum(rank for module in carriers for rank in module.r.values()),
    )


def _skeleton(kind: Any, config: PretrainedConfig, spec: str) -> Any:
    how = "cannot classify text" if kind is AutoModelForSequenceClassification else "cannot write"
    with (
        reading(spec, how, "Name a model of another architecture."),
        torch.device("meta"),
        quiet_transformers(),
    ):
        return kind.from_config(config, trust_remote_code=False)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _lists(backbone: nn.Module) -> list[nn.ModuleList]:
    return [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]


def _intermediate(config: Any) -> int:
    """Width of the MLP; the families call it by three names, and GPT-2 leaves it at 4 d."""
    for name in ("intermediate_size", "n_inner", "hidden_dim"):
        if getattr(config, name, None):
            return int(getattr(config, name))
    return 4 * int(config.hidden_size)
