"""Tokenizers that can pad, on the side that their model needs.

Decoders pad on the left, so that the last position, which their classifier reads and from which
they go on writing, is always a real token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias, cast

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from w2sdefense.errors import ModelError
from w2sdefense.models.reading import reading

Tokenizer: TypeAlias = PreTrainedTokenizerBase


def reads_last_token(config: PretrainedConfig) -> bool:
    """Whether this architecture's classifier reads the last real token (decoders) or the first."""
    if config.is_encoder_decoder:  # not all of them have a classifier
        return False
    with torch.device("meta"):
        skeleton = AutoModelForSequenceClassification.from_config(config)
    # `score` is what transformers calls the head that is applied to every token before one is
    # picked.
    return hasattr(skeleton, "score")


def pads_left(model: PreTrainedModel) -> bool:
    """Whether the end of a text must be the end of its row."""
    # What goes on writing where its text ends; a decoder with an encoder begins anew.
    continues = model.can_generate() and not model.config.is_encoder_decoder
    return bool(continues or reads_last_token(model.config))


def load_tokenizer(folder: Path, spec: str, model: PreTrainedModel) -> Tokenizer:
    """Open the tokenizer of a model, with a padding token and the side that the model needs.

    A saved tokenizer does not remember the side, so whatever is opened again comes through here.

    Args:
        folder: A folder that was checked.
        spec: What the user called it.
        model: The model; its config is told the padding token.

    Raises:
        ModelError: There is no usable tokenizer, or none that can pad.
    """
    tokenizer = open_tokenizer(folder, spec)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"The tokenizer of {spec} has no token to pad with.",
            "Name one as pad_token in its tokenizer_config.json.",
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "left" if pads_left(model) else "right"
    tokenizer.truncation_side = "right"
    return tokenizer


def open_tokenizer(folder: Path, spec: str) -> Tokenizer:
    """Open a tokenizer as it is, for its vocabulary; `load_tokenizer` makes it fit a model.

    Raises:
        ModelError: There is no usable tokenizer.
    """
    with reading(spec, "has no usable tokenizer", "Add tokenizer.json, or fetch it again."):
        return cast(Tokenizer, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int
) -> tuple[list[list[int]], list[int | None]]:
    """The tokens that a model reads of some texts, and where each text is cut.

    A text is data: what looks like a control token in it (`<|im_end|>`, `[SEP]`) is split into
    plain characters. The tokens that the tokenizer itself puts around a text stay.

    Args:
        tokenizer: The model's, a fast one.
        texts: Raw texts.
        max_length: Longest text in tokens.

    Returns:
        Token ids of every text; and the character at which it is cut, None if all of it is read.
    """
    if not texts:
        return [], []
    encoded = tokenizer(
        list(texts),
        truncation=True,
        max_length=max_length,
        split_special_tokens=True,
        return_attention_mask=False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    # With overflow asked for, a long text gives several rows; the model reads the first one.
    owners = encoded["overflow_to_sample_mapping"]
    first = [row for row, owner in enumerate(owners) if row == 0 or owners[row - 1] != owner]
    counts = Counter(owners)
    return [encoded["input_ids"][row] for row in first], [
        max(end for _, end in encoded["offset_mapping"][row]) if counts[owner] > 1 else None
        for owner, row in enumerate(first)
    ]


def count_control_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """How many texts spell a control token of the model; `encode` reads it as plain characters."""
    control = tokenizer.all_special_tokens
    return sum(any(token in text for token in control) for text in texts)
