"""The architectures that are tested, tiny and random: 2 layers, 32 wide.

Weights are drawn wide, so that a token read at the wrong place shows.
"""

import torch
import transformers
from transformers import PreTrainedTokenizerFast

from tiny import SIZES, VOCABULARY, word_tokenizer
from w2sdefense.config import AdapterConfig
from w2sdefense.models.adapters import attach_adapter

DECODER = {**SIZES, "pad_token_id": 5, "eos_token_id": 5, "bos_token_id": 4}
GQA = {**DECODER, "num_key_value_heads": 2}
HEADS = {**GQA, "head_dim": 8}
ENCODER = {**SIZES, "pad_token_id": 0}
GPT2 = {
    "vocab_size": len(VOCABULARY),
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "pad_token_id": 5,
    "eos_token_id": 5,
    "bos_token_id": 4,
}
DISTILBERT = {
    "vocab_size": len(VOCABULARY),
    "dim": 32,
    "hidden_dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
DECODERS = {
    "llama": ("Llama", GQA),
    "qwen2": ("Qwen2", GQA),
    "qwen3": ("Qwen3", HEADS),
    "mistral": ("Mistral", GQA),
    "gemma2": ("Gemma2", HEADS),
    "gemma3": ("Gemma3Text", HEADS),
    "gpt2": ("GPT2", GPT2),
}
ENCODERS = {
    "bert": ("Bert", ENCODER),
    # Its positions begin behind the padding token's number.
    "roberta": ("Roberta", ENCODER | {"pad_token_id": 1}),
    "distilbert": ("DistilBert", DISTILBERT),
}
STUDENTS = [name for name in DECODERS | ENCODERS if name != "distilbert"]
TEACHERS = ["bert", "gpt2", "distilbert"]
"""MiniLM is a BERT."""

ADAPTERS = {
    "lora": AdapterConfig(lora_r=4),
    "dora": AdapterConfig(adapter="dora", lora_r=4),
    "p-tuning": AdapterConfig(adapter="p-tuning", virtual_tokens=5, encoder_width=16),
    "prompt-tuning": AdapterConfig(adapter="prompt-tuning", virtual_tokens=5),
}


def make(name: str, kind: str = "ForSequenceClassification", adapter: str | None = None):
    """A random model, its tokenizer, and the position that its classifier reads."""
    family, sizes = (DECODERS | ENCODERS)[name]
    config = getattr(transformers, f"{family}Config")(**sizes)
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}{kind}")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    if adapter is not None:
        model = attach_adapter(model, ADAPTERS[adapter])
        for parameter in model.parameters():
            if parameter.requires_grad:
                # Added, so that scales which begin at one do not change their sign.
                parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval(), tokenizer_of(name), -1 if name in DECODERS else 0


def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The word tokenizer with the padding of an architecture."""
    tokenizer = word_tokenizer(encoder=name in ENCODERS)
    _, sizes = (DECODERS | ENCODERS)[name]
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(sizes["pad_token_id"])
    tokenizer.padding_side = "left" if name in DECODERS else "right"
    return tokenizer
