"""How long a text may be for a model that has learned every position by itself.

BERT, GPT-2 and their kin look positions up in a table, and end in an error of the runtime behind
its end. Rotary and relative positions can go on for longer than the model was trained with; nothing
is refused there.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from w2sdefense.errors import ConfigError
from w2sdefense.models.padding import has_virtual_tokens

_TABLES = ("position_embeddings", "wpe", "embed_positions", "positions_embed")
"""What architectures call the table of their positions."""


def position_limit(model: nn.Module) -> int | None:
    """Number of tokens that a model has learned positions for; None if it has no such table."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            # RoBERTa counts on from its padding token, OPT from 2.
            padding = -1 if module.padding_idx is None else module.padding_idx
            return int(module.num_embeddings) - max(padding + 1, getattr(module, "offset", 0))
    return None


def check_length(model: Any, length: int, beside: int = 0) -> None:
    """Insist that a model has positions for texts of some length.

    Args:
        model: The model; virtual tokens of an adapter that it carries are counted.
        length: Longest text in tokens.
        beside: Tokens that stand beside the text, such as an answer.

    Raises:
        ConfigError: It has not.
    """
    limit = position_limit(model)
    if has_virtual_tokens(model):
        beside += int(model.active_peft_config.num_virtual_tokens)
    if limit is None or length + beside <= limit:
        return
    taken = f" and {beside} beside it" if beside else ""
    raise ConfigError(
        f"The model has positions for {limit} tokens, too few for a text of {length}{taken}.",
        f"Use --max-length {limit - beside} (for a teacher: teacher.max_length) or less; longer "
        "texts are cut at their end."
        if limit > beside
        else "Use fewer tokens beside the text (--virtual-tokens, --answer-tokens).",
    )
