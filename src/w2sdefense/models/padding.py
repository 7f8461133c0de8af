"""Rows of tokens padded to a batch, with the positions that left padding shifts.

Decoders are padded on the left, so that the last position is always a real token. A model with
learned positions (GPT-2) then counts the padding along and answers the same text differently from
batch to batch, unless it is told where every token stands.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def has_virtual_tokens(model: Any) -> bool:
    """Whether a model carries an adapter that puts virtual tokens before the text."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def takes_positions(model: Any) -> bool:
    """Whether the forward pass of a model, or of the one inside a `PeftModel`, takes positions.

    PEFT drops them (and warns) where it puts virtual tokens before the text; they are counted
    behind it (`virtual_tokens.py`).
    """
    if has_virtual_tokens(model):
        return False
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "position_ids" in inspect.signature(base.forward).parameters


def pad(
    tokens: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, *, positions: bool
) -> dict[str, Tensor]:
    """Pad rows of tokens to the longest of them.

    Args:
        tokens: Token ids of every row.
        tokenizer: Knows the padding token and its side.
        positions: Whether the model takes `position_ids`; they are added to left padding only.

    Returns:
        `input_ids`, `attention_mask` and, where they are needed, `position_ids`, each (B, L).
    """
    batch = dict(tokenizer.pad({"input_ids": list(tokens)}, return_tensors="pt"))
    if positions and tokenizer.padding_side == "left":
        batch["position_ids"] = positions_of(batch["attention_mask"])
    return {name: torch.as_tensor(value) for name, value in batch.items()}


def positions_of(attention_mask: Tensor) -> Tensor:
    """Place of every token in its text, counted from 0, whatever padding is before it: (B, L)."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group rows of similar length so that a padded batch stays within `batch_tokens` tokens.

    Args:
        lengths: Number of tokens of every row.
        batch_tokens: Limit of `rows * longest row`; a row longer than that gets a batch of its own.

    Yields:
        Row numbers of one batch, longest first; the longest batch comes first, so that too large a
        limit fails at once rather than at the end.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size
