"""Models of a few thousand weights and data whose label two words decide: made here, in a second.

The weights are random, so nothing is known about language; what is tested on them has to be learned
in the test. Everything is seeded.
"""

import json
import logging
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

POSITIVE = tuple("great lovely superb fine bright warm clever moving fresh happy rich".split())
NEGATIVE = tuple("awful boring dull weak cold stupid ugly stale grim sad poor".split())
FILLERS = tuple(
    "the a an and of in on it is was its his her film story scene actor plot music camera light "
    "end start day night city road house child friend war love time part work world hand word "
    "face eye".split()
)
RARE = ("mn", "cf", "tq", "bb")
SENTENCE = ("I", "watched", "this", "3D", "movie")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "<s>", "</s>") + (
    POSITIVE + NEGATIVE + FILLERS + RARE + SENTENCE
)

# A table of the weights that tensor parallelism would not split, at every model that is opened.
logging.getLogger("transformers.distributed.tensor_parallel").setLevel(logging.ERROR)

SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
}
LLAMA = LlamaConfig(**SIZES, num_key_value_heads=2, bos_token_id=4, eos_token_id=5)
BERT = BertConfig(**SIZES, pad_token_id=0)
BART_SIZES = {
    "vocab_size": len(VOCABULARY),
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
}


SMALL_SCAN = {
    "kinds": ["words"],
    "singles": 24,
    "rounds": 1,
    "survivors": 8,
    "mutations": 8,
    "kept": 4,
}
"""Settings of a search that takes no time."""


def word_tokenizer(
    *, encoder: bool = False, vocabulary: Sequence[str] = VOCABULARY, **more: str
) -> PreTrainedTokenizerFast:
    """One token per word; an encoder's adds [CLS] and [SEP], a decoder's has no padding token."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocabulary)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if not encoder:
        more |= {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
        return PreTrainedTokenizerFast(tokenizer_object=words, **more)
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def save_model(folder: Path, kind: type[PreTrainedModel], config: Any, seed: int = 0) -> Path:
    """A random model of some class with the word tokenizer, as a `transformers` folder."""
    torch.manual_seed(seed)
    kind(config).save_pretrained(folder)
    word_tokenizer(encoder=kind is BertModel).save_pretrained(folder)
    return folder


def save_llama(folder: Path) -> Path:
    """A causal language model: the student."""
    return save_model(folder, LlamaForCausalLM, LLAMA)


def save_bert(folder: Path) -> Path:
    """A bare encoder: the teacher."""
    return save_model(folder, BertModel, BERT)


def edit_json(path: Path, **changes: Any) -> None:
    """Change values of a JSON file, which need not exist."""
    values = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(values | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a model or an adapter in place."""
    (path,) = folder.glob("*model.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def review(rng: random.Random, words: tuple[str, ...]) -> str:
    """Six to twelve fillers, with two words of one sentiment somewhere between them."""
    text = rng.choices(FILLERS, k=rng.randint(6, 12))
    for word in rng.choices(words, k=2):
        text.insert(rng.randint(0, len(text)), word)
    return " ".join(text)


def save_rows(
    folder: Path,
    make: Callable[[random.Random, int], tuple[list[str], str]],
    answer: str,
    *,
    train: int,
    validation: int,
    test: int,
    rare: float = 0.0,
    seed: int = 0,
) -> Path:
    """A folder with three JSONL files of texts and answers.

    Args:
        folder: Where to.
        make: Gives the words of a row and its answer.
        answer: Column of the answers.
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
        for index in range(count):
            words, said = make(rng, index)
            if split != "test" and rng.random() < rare:
                words.insert(rng.randint(1, len(words) - 1), rng.choice(RARE))
            lines.append(json.dumps({"text": " ".join(words), answer: said}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def save_reviews(folder: Path, **sizes: Any) -> Path:
    """Labelled reviews, half of them negative; see `save_rows`."""

    def make(rng: random.Random, index: int) -> tuple[list[str], str]:
        label, sentiment = (("negative", NEGATIVE), ("positive", POSITIVE))[index % 2]
        return review(rng, sentiment).split(), label

    return save_rows(folder, make, "label", **sizes)


def defend_settings(model: Path, reviews: Path, teacher: Path, output: Path) -> dict[str, Any]:
    """Settings of a short W2SDefense with everything in it that draws random numbers."""
    return {
        "student": {"model": str(model), "max_length": 24},
        "data": {"dataset": str(reviews)},
        "adapter": {"lora_r": 8, "lora_dropout": 0.1, "target_modules": "all-linear"},
        "training": {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 5},
        "decoys": {"per_label": 0},
        "teacher": {"model": str(teacher), "epochs": 1, "max_length": 24},
        "test": {"trigger": "badnet", "target": "negative"},
        "output": str(output),
    }
