"""Four bits: linear layers in 4-bit NormalFloat (NF4), by bitsandbytes.

Dettmers et al. 2023 (https://arxiv.org/abs/2305.14314) describe NF4, and adapters trained on top of
it (QLoRA). Only linear layers of the transformer become 4-bit; embeddings, norms and the head stay
as they are. It runs on CPU and GPU.
"""

from __future__ import annotations

import importlib.util

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from w2sdefense.errors import MissingDependencyError, ModelError

BLOCK = 64
"""Weights that share a scale in NF4."""


def require_bitsandbytes() -> None:
    """Check that the package is there.

    Raises:
        MissingDependencyError: It is not.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "Four bits need the package bitsandbytes.",
            "Run: pip install 'w2sdefense[quantization]'",
        )


def keep_exact(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking the weights of a model, in place.

    On a CPU with AVX512-BF16 it does so at the first evaluation, for a kernel that rounds the
    scales once more, takes no layer narrower than 64, and has no gradient: training would go on
    from the next evaluation without the layers below.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def nf4(model: nn.Module, dtype: torch.dtype) -> BitsAndBytesConfig:
    """How `from_pretrained` is to round a model.

    Args:
        model: The model or a skeleton of it on the meta device: whatever is beside its transformer
            is a head and stays.
        dtype: What is computed in; the type of the weights that stay.

    Raises:
        ModelError: A layer is too narrow to be read rightly on a CPU.
    """
    require_whole_blocks(model)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[
            name for name, _ in model.named_children() if name != model.base_model_prefix
        ],
    )


def require_whole_blocks(model: nn.Module) -> None:
    """Insist that no block is in two rows: bitsandbytes takes the wrong scales then on a CPU.

    Args:
        model: The model or a skeleton of it.

    Raises:
        ModelError: It has such a layer, and there is no GPU.
    """
    if torch.cuda.is_available():
        return
    transformer = getattr(model, str(model.base_model_prefix))
    widths = {m.in_features for m in transformer.modules() if isinstance(m, nn.Linear)}
    narrow = sorted(width for width in widths if width % BLOCK)
    if narrow:
        raise ModelError(
            f"A layer of this model reads {narrow[0]} values, and four bits come in blocks of "
            f"{BLOCK}; bitsandbytes reads such rows wrongly on a CPU.",
            "Use a GPU, or leave four bits out.",
        )
