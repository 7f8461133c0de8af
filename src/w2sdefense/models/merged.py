"""Writing a model with its adapter folded in, so that it answers like the one that was measured.

PEFT folds where the sum of two weights is not what the two did: an adapter on an embedding that is
the output layer, too, changes both. So the folder is opened again and compared with the model
before the fold, always.
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
"""Texts that a model is compared on; any four would do, since a fold is wrong for all or none."""


def logits_on(model: PreTrainedModel | PeftModel, tokenizer: Tokenizer) -> list[Tensor]:
    """Logits of a model on each of `TEXTS` alone: (C,) of a classifier, (L, V) of a writer."""
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
    """Fold the adapter of a model in and write a folder that plain `transformers` opens.

    A chat template that depends on the text beyond inserting it is left out.

    Returns:
        The merged model; the weights of the one that was given are changed.

    Raises:
        ModelError: The adapter cannot be folded in, or the folder does not answer like the model.
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
    # The two need not be on a GPU at once.
    merged.cpu()
    load = load_causal_lm if merged.can_generate() else load_classifier
    dtype = cast(Dtype, str(merged.dtype).removeprefix("torch."))
    opened, _ = load(str(folder), dtype=dtype)
    after = logits_on(to_gpu(opened), tokenizer)
    del opened
    require_merged(before, after, merged.dtype)
    return merged.to(home)


def _name_positions(path: Path) -> None:
    """Name rotary positions as transformers 4 does, too, which else takes its default silently."""
    values: dict[str, Any] = read_json(path)
    rope = values.get("rope_parameters") or {}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            values["rope_scaling"] = rope
        write_json(path, values)
