"""Whether the weights of a model are what its files say: all there, numbers, and truly merged."""

from __future__ import annotations

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import nn

from w2sdefense.errors import ModelError
from w2sdefense.models.checkpoint import ADAPTER_WEIGHTS, Checkpoint
from w2sdefense.models.reading import reading


def require_head(checkpoint: Checkpoint, fresh: list[str]) -> None:
    """Insist that an adapter's file holds the head that its base lacks.

    Args:
        checkpoint: The adapter.
        fresh: Weights of the base that came from no file.

    Raises:
        ModelError: One of them is missing.
    """
    stored = _stored(checkpoint)
    missing = [name for name in fresh if not any(key.endswith(f".{name}") for key in stored)]
    if missing:
        raise ModelError(
            f"The adapter {checkpoint.spec} does not fit {checkpoint.whole.spec}: neither holds "
            f"{missing[0]}, so the answers would be those of a random head.",
            "Name the classifier that the adapter was trained on with --base, or an adapter that "
            "was saved with its head (modules_to_save).",
        )


def require_adapter(model: PeftModel, checkpoint: Checkpoint) -> None:
    """Insist that an adapter's file holds each of its weights, and no others.

    Where a tensor is missing, PEFT warns and keeps what it drew at random; where one has no place
    in the model, it is dropped without a word. Either way a model would be measured that nobody
    published.

    Args:
        model: The base with the adapter on it.
        checkpoint: The adapter.

    Raises:
        ModelError: A weight is missing or has no place.
    """
    stored = _stored(checkpoint)
    with reading(checkpoint.spec):
        used = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    # The embeddings may be stored with the adapter, under their names in the base.
    unused = sorted(stored - used - model.state_dict().keys())
    missing = sorted(used - stored)
    if missing or unused:
        first, what = (missing, "are missing") if missing else (unused, "have no place in it")
        raise ModelError(
            f"The adapter {checkpoint.spec} is not whole: of its weights, {len(first)} {what}, "
            f"such as {first[0]}.",
            f"Fetch it again; {ADAPTER_WEIGHTS} must hold what adapter_config.json says.",
        )


def _stored(checkpoint: Checkpoint) -> set[str]:
    """Names of the weights in an adapter's file."""
    path = checkpoint.folder / ADAPTER_WEIGHTS
    with reading(path), safe_open(path, "pt") as file:
        return set(file.keys())


def require_finite(model: nn.Module, spec: str) -> None:
    """Insist that no weight is NaN or infinite: such a model answers every text alike.

    One pass over the memory, without copies.

    Args:
        model: The model.
        spec: What the user called it.

    Raises:
        ModelError: A weight is not a number.
    """
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise ModelError(
                    f"{spec} holds weights that are no numbers (NaN or infinite) in {name}, opened "
                    f"as {str(value.dtype).removeprefix('torch.')}.",
                    "Fetch it again; if only --dtype float16 does this, use bfloat16 or float32.",
                )
