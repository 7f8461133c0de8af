"""Converts texts to model inputs: tokens, padded on the right side, with their positions.

Decoders pad on the left, so that the last position, which their classifier reads and from which
they generate, is always a real token. A model with learned positions (GPT-2) would count the
padding, and answer the same text differently in other batches, unless it gets explicit positions.
Such models have a table of positions and fail beyond its end. Rotary and relative positions have no
such end; texts longer than in pretraining are not refused there.
"""

from __future__ import annotations

import inspect
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from w2sdefense.errors import ConfigError, ModelError, reading
from w2sdefense.models.checkpoint import CODE

Tokenizer: TypeAlias = PreTrainedTokenizerBase

_TABLES = ("position_embeddings", "wpe", "embed_positions", "positions_embed")
"""Names of the table of positions in various architectures."""

_CONTROL = re.compile(r"<[|\uff5c].+[|\uff5c]>|\[/?[A-Z_]+\]|</?s>|<(start|end)_of_turn>")
"""Typical control tokens: `<|user|>`, `[INST]`, `</s>`."""


def reads_last_token(config: PretrainedConfig) -> bool:
    """Whether this architecture's classifier reads the last real token (decoders) or the first."""
    if config.is_encoder_decoder:  # not all of them have a classifier
        return False
    with torch.device("meta"):
        skeleton = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    # transformers gives the name `score` to heads that run on every token before one is selected.
    return hasattr(skeleton, "score")


def pads_left(model: PreTrainedModel) -> bool:
    """Whether texts must be padded on the left, so that they end in the last column."""
    # A causal model generates after the end of its text; an encoder-decoder does not.
    continues = model.can_generate() and not model.config.is_encoder_decoder
    return bool(continues or reads_last_token(model.config))


def load_tokenizer(folder: Path, spec: str, model: PreTrainedModel) -> Tokenizer:
    """Open the tokenizer of a model, with a padding token and the side that the model needs.

    A saved tokenizer does not store the side, so every tokenizer must be opened here. Also sets the
    padding token in the model's config.
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
    """Open a tokenizer unchanged, for its vocabulary; `load_tokenizer` adapts it to a model."""
    fix = "Add tokenizer.json, or fetch it again."
    with reading(ModelError, f"{spec} has no usable tokenizer", fix):
        found = cast(Tokenizer, AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
        template: Any = found.chat_template
        for text in template.values() if isinstance(template, dict) else (template or "",):
            if not isinstance(text, str):
                raise ModelError(f"The chat template of {spec} is no text, but {text!r:.80}.", fix)
    for name in CODE:
        found.init_kwargs.pop(name, None)
    return found


def encode(
    tokenizer: Tokenizer, texts: Sequence[str], max_length: int, *, framed: bool = True
) -> tuple[list[list[int]], list[int | None]]:
    """Tokenize texts, and report where each one is cut.

    Texts are data, so control tokens spelled in them (`<|im_end|>`, `[SEP]`) become plain
    characters. The tokenizer's own special tokens around a text stay, unless `framed` is False.

    Returns:
        Token ids of every text; and the character at which it is cut, None if it is not.
    """
    if not texts:
        return [], []
    if not tokenizer.is_fast:
        found = [_encode_slowly(tokenizer, text, max_length, framed) for text in texts]
        return [ids for ids, _ in found], [cut for _, cut in found]
    encoded = tokenizer(
        list(texts),
        add_special_tokens=framed,
        truncation=True,
        max_length=max_length,
        split_special_tokens=True,
        return_attention_mask=False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    # With overflowing tokens, a long text gives several rows; the model reads only the first.
    owners = encoded["overflow_to_sample_mapping"]
    first = [row for row, owner in enumerate(owners) if row == 0 or owners[row - 1] != owner]
    counts = Counter(owners)
    ids = [plain(tokenizer, encoded["input_ids"][r], encoded["offset_mapping"][r]) for r in first]
    return [row or _nothing(tokenizer, framed) for row in ids], [
        max(end for _, end in encoded["offset_mapping"][row]) if counts[owner] > 1 else None
        for owner, row in enumerate(first)
    ]


def _encode_slowly(
    tokenizer: Any, text: str, max_length: int, framed: bool
) -> tuple[list[int], int | None]:
    """`encode` for one text and a slow tokenizer, which has no offsets."""

    def read(part: str) -> list[int]:
        ids = tokenizer(part, add_special_tokens=False, split_special_tokens=True, verbose=False)
        return plain(tokenizer, ids["input_ids"], [(0, 1)] * len(ids["input_ids"]))

    room = max_length - framed * tokenizer.num_special_tokens_to_add()
    ids, cut_at = read(text), None
    if len(ids) > room:
        cut_at = bisect_right(range(len(text)), room, key=lambda end: len(read(text[:end]))) - 1
    ids = ids[:room]
    ids = tokenizer.build_inputs_with_special_tokens(ids) if framed else ids
    return ids or _nothing(tokenizer, framed), cut_at


def _nothing(tokenizer: Any, framed: bool) -> list[int]:
    """The input for a text without tokens: one padding token, because models need some input."""
    padding = tokenizer.pad_token_id
    return [tokenizer.eos_token_id if padding is None else padding] if framed else []


def plain(tokenizer: Any, ids: list[int], offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Replace control tokens that a text spells by the unknown word.

    `split_special_tokens` does not split control tokens of the base vocabulary, such as `</s>` of
    T5 and XLM-R, nor tokens that are not marked as special, such as `<｜User｜>` of DeepSeek.
    `offsets` are the character spans of the tokens; a span is empty if the tokenizer added the
    token.
    """
    control = control_tokens(tokenizer)
    spelled = [id in control and start < end for id, (start, end) in zip(ids, offsets, strict=True)]
    if not any(spelled):
        return ids
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in control:  # BPE, whose vocabulary has every character
        unknown = tokenizer.convert_tokens_to_ids("?")
    return [unknown if odd else id for id, odd in zip(ids, spelled, strict=True)]


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """The control tokens of a tokenizer: id -> token.

    These are the special tokens except the unknown word, and added tokens that occur in the chat
    template or look like control tokens.
    """
    return _control_tokens(tokenizer, str(getattr(tokenizer, "chat_template", None)))


@lru_cache(maxsize=16)  # called for every text
def _control_tokens(tokenizer: Any, template: str) -> dict[int, str]:
    found = {tokenizer.convert_tokens_to_ids(t): t for t in tokenizer.all_special_tokens}
    for id, token in tokenizer.added_tokens_decoder.items():
        text = str(token)
        odd = not text.replace(" ", "").isalnum() and not text.isspace()
        if token.special or (odd and (text in template or _CONTROL.fullmatch(text))):
            found[id] = text
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        found.pop(unknown, None)
    return found


def count_control_texts(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    """How many texts spell a control token of the model; `encode` reads it as plain characters."""
    control = set(control_tokens(tokenizer).values())
    return sum(any(token in text for token in control) for text in texts)


def has_virtual_tokens(model: Any) -> bool:
    """Whether a model has an adapter that puts virtual tokens before the text."""
    return isinstance(model, PeftModel) and bool(model.active_peft_config.is_prompt_learning)


def takes_positions(model: Any) -> bool:
    """Whether the forward pass of a model (or of the base of a `PeftModel`) takes `position_ids`.

    False with virtual tokens, where PEFT drops positions; see `adapters.count_positions`.
    """
    if has_virtual_tokens(model):
        return False
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "position_ids" in inspect.signature(base.forward).parameters


def pad(
    tokens: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, *, positions: bool
) -> dict[str, Tensor]:
    """Pad rows of tokens to the longest of them.

    Returns:
        `input_ids`, `attention_mask` and, with left padding and `positions`, `position_ids`, each
        (B, L).
    """
    batch = dict(tokenizer.pad({"input_ids": list(tokens)}, return_tensors="pt"))
    if positions and tokenizer.padding_side == "left":
        batch["position_ids"] = positions_of(batch["attention_mask"])
    return {name: torch.as_tensor(value) for name, value in batch.items()}


def positions_of(attention_mask: Tensor) -> Tensor:
    """Position of every token in its text, not counting padding before it: (B, L)."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def length_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group rows of similar length so that a padded batch stays within `batch_tokens` tokens.

    A row longer than that forms a batch of its own.

    Yields:
        Row indices of one batch, longest row first. The batch with the longest rows comes first, so
        that too large a limit fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    start = 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def require_known(model: Any, tokens: Sequence[list[int]]) -> None:
    """Raise a `ModelError` if token ids exceed the model's vocabulary."""
    largest = max((max(ids) for ids in tokens if ids), default=0)
    known = model.get_input_embeddings().weight.shape[0]
    if largest >= known:
        raise ModelError(
            f"The tokenizer gives the token {largest}, and the model knows {known}.",
            "Name a folder with the tokenizer that the model was trained with.",
        )


def position_limit(model: nn.Module) -> int | None:
    """Number of learned positions of a model; None if it has no table of positions."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            # Positions start after the padding index in RoBERTa, and at 2 in OPT.
            padding = -1 if module.padding_idx is None else module.padding_idx
            return int(module.num_embeddings) - max(padding + 1, getattr(module, "offset", 0))
    return None


def check_length(model: Any, length: int, beside: int = 0) -> None:
    """Raise a `ConfigError` if a model lacks positions for `length` + `beside` tokens.

    Virtual tokens of an adapter count as well.
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
