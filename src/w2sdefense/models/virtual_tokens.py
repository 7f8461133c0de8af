"""Virtual tokens (p-tuning, prompt-tuning): trained embeddings that PEFT puts before the text.

A batch then is `[virtual tokens][padding][text]` for a decoder, and PEFT drops the positions that
are handed to it: how far a text stands from the virtual tokens, and so what is answered, would
depend on the other texts of the batch. `count_positions` has them counted again. The classifier of
a decoder reads the last position as before. That of an encoder reads the first position, which is
the first *virtual token* and no longer [CLS]; padding is behind the text there and shifts nothing.
"""

from __future__ import annotations

from typing import Any

from peft import PeftModel, PeftType
from torch import nn

from w2sdefense.models.padding import has_virtual_tokens, positions_of


def count_positions(model: PeftModel) -> None:
    """Have a decoder count its positions without the padding behind its virtual tokens.

    A text by itself is answered as by PEFT alone. Nothing happens to a model without virtual
    tokens, which is told its positions with the batch.

    Args:
        model: A decoder with an adapter.
    """
    if has_virtual_tokens(model):
        model.base_model.register_forward_pre_hook(_add_positions, with_kwargs=True)


def _add_positions(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Add `position_ids` from the mask, which covers the virtual tokens and what is cached."""
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2 and kwargs.get("position_ids") is None:
        embeddings = kwargs.get("inputs_embeds")
        length = (kwargs["input_ids"] if embeddings is None else embeddings).shape[1]
        kwargs["position_ids"] = positions_of(mask.long())[:, -length:]
    return args, kwargs


def prompt_encoder(model: Any) -> nn.Module | None:
    """What makes the virtual tokens of p-tuning while it is trained; None for any other model.

    PEFT saves the embeddings that come out of it and not its weights, and loads them into the layer
    that goes *into* it. That serves a model that only answers; training cannot go on from it.
    """
    if not has_virtual_tokens(model) or model.active_peft_config.peft_type != PeftType.P_TUNING:
        return None
    encoder: nn.Module = model.prompt_encoder[model.active_adapter]
    return encoder
