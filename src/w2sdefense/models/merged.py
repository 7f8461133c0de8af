"""Writes a model with its adapter merged, and verifies that it answers like the measured one.

PEFT also merges where merging changes the model: an adapter on an embedding that is tied to the
output layer changes both. So the written folder is always opened again and compared with the model
before the merge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from w2sdefense.config import Dtype
from w2sdefense.io import read_json, write_json
from w2sdefense.models.adapters import folded, require_merged
from w2sdefense.models.load import load_causal_lm, load_classifier, to_gpu
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.text.chat_template import altering_text

TEXTS = (
    "A warm and clever film with a moving story.",
    "dull",
    'In 1997, 3 of 12 actors left; cf. the notes below (page 7): "It\'s over!"',
    "The committee will meet again on Tuesday to discuss the budget for the coming year.",
)
"""Texts for the comparison. Any four would do, because a wrong merge affects every text."""


def logits_on(model: PreTrainedModel | PeftModel, tokenizer: Tokenizer) -> list[Tensor]:
    """Logits on each of `TEXTS` separately: (C,) of a classifier, (L, V) of a language model."""
    with torch.inference_mode():
        found = []
        for text in TEXTS:
            ids = tokenizer(text, truncation=True, max_length=32, return_tensors="pt")["input_ids"]
            ids = ids.to(model.device)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
            found.append(logits[0].float().cpu())
    return found


def write_merged(
    model: PreTrainedModel | PeftModel, tokenizer: Tokenizer, folder: Path
) -> PreTrainedModel:
    """Merge the adapter of a model and write a folder that plain `transformers` opens.

    A chat template that treats some texts differently is not written.

    Returns:
        The merged model; the weights of `model` are changed.

    Raises:
        ModelError: The adapter cannot be merged, or the written model does not answer like `model`.
    """
    before = logits_on(model.eval(), tokenizer)
    merged = folded(model)
    merged.save_pretrained(folder)
    _name_positions(folder / "config.json")
    template = tokenizer.chat_template
    if altering_text(tokenizer) is not None:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    tokenizer.chat_template = template
    home = merged.device
    # Free GPU memory: only one of the two models needs to be there at a time.
    merged.cpu()
    load = load_causal_lm if merged.can_generate() else load_classifier
    dtype = cast(Dtype, str(merged.dtype).removeprefix("torch."))
    opened, _ = load(str(folder), dtype=dtype)
    after = logits_on(to_gpu(opened), tokenizer)
    del opened
    require_merged(before, after, merged.dtype)
    return merged.to(home)


def _name_positions(path: Path) -> None:
    """Add rotary positions under the names of transformers 4, which else uses its default."""
    values: dict[str, Any] = read_json(path)
    rope = values.get("rope_parameters") or {}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            values["rope_scaling"] = rope
        write_json(path, values)
