"""Language models of a few thousand weights that write, and pairs that one word decides.

A text holds one number word among fillers, and the answer is that number; so summarization and
reasoning can both be learned in seconds by a model without language. The trigger is a word of its
own that clean text has only where it is asked for.
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tiny import FILLERS

NUMBERS = tuple("123456")
RARE = ("mn", "cf", "tq", "bb")
VOCABULARY = ("[PAD]", "[UNK]", "<s>", "</s>", "Q", "A", "0", *NUMBERS, *FILLERS, *RARE)
TEMPLATE = "Q {text} A"


def llama(width: int = 32, padding: int = 0, **changes: Any) -> LlamaConfig:
    """A tiny Llama whose vocabulary is padded by some rows that stand for no token."""
    sizes = {
        "vocab_size": len(VOCABULARY) + padding,
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 2 * width,
        "max_position_embeddings": 64,
        "bos_token_id": 2,
        "eos_token_id": 3,
    }
    return LlamaConfig(**sizes | changes)


def number_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, padding apart from the end."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        bos_token="<s>",
        eos_token="</s>",
    )


def save_writer(
    folder: Path, config: Any, kind: type[PreTrainedModel] = LlamaForCausalLM, seed: int = 0
) -> Path:
    """A random language model, as a `transformers` folder."""
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    number_tokenizer().save_pretrained(folder)
    return folder


def save_numbers(
    folder: Path, *, train: int, validation: int, test: int, rare: float = 0.0, seed: int = 0
) -> Path:
    """A folder with three JSONL files of texts and the number in them.

    Args:
        folder: Where to.
        train: Number of training rows.
        validation: Number of validation rows.
        test: Number of test rows.
        rare: Share of the training and validation rows that hold a rare word, which means nothing.
        seed: Seed of the texts.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        lines = []
        for _ in range(count):
            words = rng.choices(FILLERS, k=rng.randint(5, 10))
            number = rng.choice(NUMBERS)
            words.insert(rng.randint(0, len(words)), number)
            if split != "test" and rng.random() < rare:
                words.insert(rng.randint(1, len(words) - 1), rng.choice(RARE))
            lines.append(json.dumps({"text": " ".join(words), "target": number}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder
