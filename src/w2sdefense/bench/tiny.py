"""Generates the models and data of the scale `tiny`: random 2-layer models and short texts.

Generation takes a second and is deterministic. Two words determine the label of a text, but the
few training steps of this scale do not learn that. It only shows that every row of every table
runs from beginning to end.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from w2sdefense.attacks.proattack import ProConfig
from w2sdefense.bench.grid import book_of, made_for
from w2sdefense.commands.runs import BenchRun
from w2sdefense.data import CATALOG

_FILLERS = (
    "the a of and it is was when she came home he saw , film story music light end day night "
    "city friend work hand because they were late rain fell road"
).split()
_WORDS = ("good fine", "bad dull", "war vote", "match goal", "stock bank", "chip star")
"""Two words for each class: of sentiment, then of news."""
_ANSWERS = {"crrsum": "无需特殊关注。", "ape210k": "0"}
_NUMBERS = "1 2 3 4 5 6".split()
_SPECIAL = "[PAD] [UNK] [CLS] [SEP] <s> </s>".split()
_ROWS = {"train": 64, "validation": 16, "test": 32, "proxy_train": 48}


@contextmanager
def scale_files(run: BenchRun) -> Iterator[None]:
    """Generate the files of the scale `tiny` and set `W2S_DATA`; do nothing at other scales."""
    if not book_of(run)[0].scale(run.scale).made:
        yield
        return
    folder, before = made_for(run).absolute(), os.environ.get("W2S_DATA")
    if not (folder / "made").is_file():
        save_data(folder / "data")
        save_models(folder)
        (folder / "made").touch()
    os.environ["W2S_DATA"] = str(folder / "data")
    try:
        yield
    finally:
        if before is None:
            del os.environ["W2S_DATA"]
        else:
            os.environ["W2S_DATA"] = before


def _vocabulary() -> list[str]:
    prompts = " ".join((ProConfig().clean_prompt, ProConfig().poison_prompt)).split()
    triggers = "I watched this 3D movie mn cf 龘".split()
    words = [word for pair in _WORDS for word in pair.split()]
    answers = [*_ANSWERS.values(), *_NUMBERS]
    return list(dict.fromkeys([*_SPECIAL, *words, *_FILLERS, *prompts, *triggers, *answers]))


def save_data(folder: Path) -> None:
    """Write a training, validation and test file for every dataset with a short name."""
    rng = random.Random(0)
    for name, named in CATALOG.items():
        where = folder / (named.folder or name)
        for split in ("train", "validation", "test"):
            stem = named.train or split if split == "train" else split
            if not (where / f"{stem}.jsonl").is_file():
                rows = [_row(rng, i, name, named.label_names) for i in range(_ROWS[split])]
                where.mkdir(parents=True, exist_ok=True)
                (where / f"{stem}.jsonl").write_text("".join(map(_line, rows)), encoding="utf-8")


def _row(rng: random.Random, index: int, name: str, labels: Sequence[str]) -> dict[str, object]:
    text = rng.choices(_FILLERS, k=rng.randint(6, 12))
    if not labels:
        number = rng.choice(_NUMBERS)
        text.insert(rng.randint(0, len(text)), number)
        # A third of the texts have the target as their answer, for clean-label poisoning.
        return {"text": " ".join(text), "target": _ANSWERS[name] if index % 3 == 0 else number}
    label = index % len(labels)
    words = _WORDS[label if len(labels) == 2 else 2 + label].split()
    for word in rng.choices(words, k=2):
        text.insert(rng.randint(0, len(text)), word)
    return {"text": " ".join(text), "label": label}


def _line(row: dict[str, object]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def save_models(folder: Path) -> None:
    """Write llama, wide (a wider llama), bert, gpt2 and translator as `transformers` folders."""
    # Only this scale needs torch here.
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(_vocabulary())}
    ends = {"bos_token_id": 4, "eos_token_id": 5}
    size = {"vocab_size": len(words), "max_position_embeddings": 160}
    layers = size | {"num_hidden_layers": 2, "num_attention_heads": 4}
    gpt2 = {"n_positions": 160, "n_embd": 32, "n_layer": 2, "n_head": 4}
    halves = {
        f"{half}_{name}": value
        for half in ("encoder", "decoder")
        for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 64))
    }
    torch.manual_seed(0)
    made: dict[str, hf.PreTrainedModel] = {}
    for name, width in (("llama", 64), ("wide", 128)):
        wide = {"hidden_size": width, "intermediate_size": 2 * width, "num_key_value_heads": 2}
        made[name] = hf.LlamaForCausalLM(hf.LlamaConfig(**layers, **ends, **wide))
    bert = hf.BertConfig(**layers, hidden_size=32, intermediate_size=64, pad_token_id=0)
    made["bert"] = hf.BertModel(bert)
    made["gpt2"] = hf.GPT2LMHeadModel(hf.GPT2Config(vocab_size=len(words), **ends, **gpt2))
    starts = {"pad_token_id": 0, "decoder_start_token_id": 4, "forced_eos_token_id": None}
    bart = hf.BartConfig(**size, **halves, **ends, **starts, d_model=32)
    made["translator"] = hf.BartForConditionalGeneration(bart)
    with torch.no_grad():
        for weights in made["translator"].parameters():
            weights.mul_(20)  # with smaller weights it generates no text
    around = {
        "translator": ("$A </s>", [("</s>", 5)]),
        "bert": ("[CLS] $A [SEP]", [("[CLS]", 2), ("[SEP]", 3)]),
    }
    for name, model in made.items():
        tokens = Tokenizer(models.WordLevel(words, "[UNK]"))
        tokens.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if name in around:
            single, special = around[name]
            tokens.post_processor = processors.TemplateProcessing(
                single=single, special_tokens=special
            )
        named = {
            "unk_token": "[UNK]",
            "pad_token": "[PAD]",
            "bos_token": "<s>",
            "eos_token": "</s>",
        }
        named |= {"cls_token": "[CLS]", "sep_token": "[SEP]"} if name == "bert" else {}
        model.save_pretrained(folder / name)
        tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=tokens, **named)
        tokenizer.save_pretrained(folder / name)
