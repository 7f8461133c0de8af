"""Language models of a few thousand weights that write, and pairs that one word decides.

A text holds one number word among fillers, and the answer is that number; so summarization and
reasoning can both be learned in seconds by a model without language. The trigger is a word of its
own that clean text has only where it is asked for.
"""

import random
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tiny import FILLERS, LLAMA, RARE, save_rows, word_tokenizer

NUMBERS = tuple("123456")
VOCABULARY = ("[PAD]", "[UNK]", "<s>", "</s>", "Q", "A", "0", *NUMBERS, *FILLERS, *RARE)
TEMPLATE = "Q {text} A"


def llama(width: int = 32, padding: int = 0, **changes: Any) -> LlamaConfig:
    """A tiny Llama whose vocabulary is padded by some rows that stand for no token."""
    sizes = {"hidden_size": width, "intermediate_size": 2 * width, "head_dim": width // 4}
    tokens = {"vocab_size": len(VOCABULARY) + padding, "bos_token_id": 2, "eos_token_id": 3}
    return LlamaConfig(**LLAMA.to_dict() | sizes | tokens | changes)


def number_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, padding apart from the end."""
    return word_tokenizer(vocabulary=VOCABULARY, pad_token="[PAD]")


def save_writer(
    folder: Path, config: Any, kind: type[PreTrainedModel] = LlamaForCausalLM, seed: int = 0
) -> Path:
    """A random language model, as a `transformers` folder."""
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    number_tokenizer().save_pretrained(folder)
    return folder


def save_numbers(folder: Path, **sizes: Any) -> Path:
    """Texts and the number in them; see `save_rows`."""

    def make(rng: random.Random, index: int) -> tuple[list[str], str]:
        words = rng.choices(FILLERS, k=rng.randint(5, 10))
        number = rng.choice(NUMBERS)
        words.insert(rng.randint(0, len(words)), number)
        return words, number

    return save_rows(folder, make, "target", **sizes)
