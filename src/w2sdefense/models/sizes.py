"""The parameters of any model, counted on a skeleton of it whose tensors have no memory.

The skeleton is built from the config alone and gets the adapter that a run would give it, so the
counts are those of what is trained. No weights are opened or fetched; the shapes of the paper's
students are known here, so that planning needs no network.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
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
from w2sdefense.data.hub import split_hub_id
from w2sdefense.errors import ModelError, reading
from w2sdefense.models.adapters import attach_adapter, require_mergeable
from w2sdefense.models.checkpoint import ADAPTER_CONFIG, Checkpoint
from w2sdefense.models.embedded import quiet_transformers
from w2sdefense.models.features import backbone_of, mlp_width


@dataclass(frozen=True)
class Sizes:
    """What a planned run is made of, in parameters."""

    model: str  # name of the student
    layers: int  # number of layers
    width: int  # width d of the hidden states
    queries: int  # width of all query heads together; `keys` of all key heads, and of the values
    keys: int
    intermediate: int  # width of the MLP; `gated` if that has a gate beside its up projection
    gated: bool
    backbone: int  # parameters of the transformer, which are frozen and have no trained copy
    language_model: int | None  # the same with an output layer; None where there is none
    head: int  # parameters of the classification head, of which PEFT trains a copy
    adapter: int  # parameters of the adapter
    linear: int  # parameters in the linear layers of the transformer, which 4 bits round
    # parameters of the largest piece that is gathered at once: a layer or the embedding
    largest: int
    adapted_inputs: int  # sum of the input widths of all linear layers that carry an adapter
    adapted_ranks: int  # sum of their ranks

    @property
    def total(self) -> int:
        """All parameters of the classifier with its adapter, the head and its copy included."""
        return self.backbone + 2 * self.head + self.adapter

    @property
    def trainable(self) -> int:
        """Parameters that are trained: the adapter and the copy of the head."""
        return self.adapter + self.head


def decoder(
    layers: int,
    width: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    *,
    tied: bool = False,
    kind: type[PretrainedConfig] = LlamaConfig,
) -> PretrainedConfig:
    """The config of a decoder of the Llama family, or of Qwen2, which adds biases to q, k and v."""
    return kind(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
    )


STUDENTS = {
    "Qwen/Qwen2.5-1.5B": decoder(28, 1536, 8960, 12, 2, 151936, tied=True, kind=Qwen2Config),
    "Qwen/Qwen2.5-3B": decoder(36, 2048, 11008, 16, 2, 151936, tied=True, kind=Qwen2Config),
    "Qwen/Qwen2.5-7B": decoder(28, 3584, 18944, 28, 4, 152064, kind=Qwen2Config),
    "Qwen/Qwen2.5-14B": decoder(48, 5120, 13824, 40, 8, 152064, kind=Qwen2Config),
    "meta-llama/Meta-Llama-3-8B": decoder(32, 4096, 14336, 32, 8, 128256),
    "lmsys/vicuna-7b-v1.5": decoder(32, 4096, 11008, 32, 32, 32000),
    "smollm2-135m": decoder(30, 576, 1536, 9, 3, 49152, tied=True),
}
"""Students whose shape is known here: those of the paper by their hub ids, and the embedded one."""

_CALLED = {
    "llama3-8b": "meta-llama/Meta-Llama-3-8B",
    "vicuna-7b": "lmsys/vicuna-7b-v1.5",
}  # by the paper


def read_config(spec: str) -> PretrainedConfig:
    """The config of a folder or a hub id; of a hub id nothing else is fetched."""
    if (Path(spec).expanduser() / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec} is an adapter.", "Name the model that it was trained on.")
    fix = f"Name a folder with a config.json, or, without a connection: {', '.join(STUDENTS)}."
    with reading(ModelError, f"The config of {spec} cannot be read", fix):
        folder = Path(spec).expanduser()
        on_hub = None if folder.is_dir() else split_hub_id(spec)
        name, revision = on_hub or (folder.as_posix(), None)
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)


def check_adapter(
    checkpoint: Checkpoint, adapter: AdapterConfig, *, writes: bool, merge: bool
) -> None:
    """Attach an adapter to a skeleton of a model, so that what does not fit comes out at once.

    Raises:
        ConfigError: The adapter does not fit the model.
        ModelError: It cannot be folded in (`merge`), or the architecture can neither classify nor
            write.
    """
    kind = AutoModelForCausalLM if writes else AutoModelForSequenceClassification
    skeleton = _skeleton(kind, checkpoint.config, checkpoint.spec)
    adapted = attach_adapter(skeleton, adapter)
    if merge:
        require_mergeable(adapted)


def skeleton_sizes(
    spec: str, config: PretrainedConfig, adapter: AdapterConfig, labels: int
) -> Sizes:
    """Count the parameters of a classifier of so many labels with its adapter."""
    config = copy.deepcopy(config)
    config.num_labels = labels
    model = _skeleton(AutoModelForSequenceClassification, config, spec)
    backbone = backbone_of(model)
    whole = _count(model)
    linears = [m for m in backbone.modules() if isinstance(m, nn.Linear | Conv1D)]
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    pieces = [_count(module) for blocks in lists for module in blocks]
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
        intermediate=mlp_width(text),
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
        reading(ModelError, f"{spec} {how}", "Name a model of another architecture."),
        torch.device("meta"),
        quiet_transformers(),
    ):
        return kind.from_config(config, trust_remote_code=False)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def known_student(name: str) -> str | None:
    """The student of `STUDENTS` that a hub id or the name in the paper means, in any case."""
    short = name.rsplit("/", 1)[-1].lower()
    by_short = {known.rsplit("/", 1)[-1].lower(): known for known in STUDENTS}
    return (by_short | _CALLED).get(short)
