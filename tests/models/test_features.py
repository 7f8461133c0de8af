"""The feature is what the classifier reads: the last real token of a decoder, [CLS] of an encoder.

Truth is `output_hidden_states=True`, one text at a time and without padding, where nothing can be
mistaken.
"""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from tiny import SIZES, VOCABULARY, word_tokenizer
from w2sdefense.config import AdapterConfig
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.padding import pad, takes_positions
from w2sdefense.models.predictor import ClassifierPredictor

TEXTS = ["great", "the dull story of a road and a city", "mn", "a warm film with it", ""]
DECODER = {**SIZES, "pad_token_id": 5, "eos_token_id": 5, "bos_token_id": 4}
GQA = {**DECODER, "num_key_value_heads": 2}
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
    "llama": (LlamaForSequenceClassification, LlamaConfig(**GQA)),
    "gpt2": (GPT2ForSequenceClassification, GPT2Config(**GPT2)),
    "qwen2": (Qwen2ForSequenceClassification, Qwen2Config(**GQA)),
    "mistral": (MistralForSequenceClassification, MistralConfig(**GQA)),
}
ENCODERS = {
    "bert": (BertForSequenceClassification, BertConfig(**ENCODER)),
    "roberta": (RobertaForSequenceClassification, RobertaConfig(**ENCODER | {"pad_token_id": 1})),
    "distilbert": (DistilBertForSequenceClassification, DistilBertConfig(**DISTILBERT)),
}


def make(name: str, *, peft: bool = False):
    """A random classifier, its tokenizer, and the position that its classifier reads."""
    kind, config = (DECODERS | ENCODERS)[name]
    torch.manual_seed(0)
    model = kind(config)
    # Fresh models start with the same small numbers everywhere; wrong positions must show.
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokenizer = word_tokenizer(encoder=name in ENCODERS)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    tokenizer.padding_side = "left" if name in DECODERS else "right"
    if peft:
        model = attach_adapter(model, AdapterConfig(lora_r=4, target_modules="all-linear"))
        for parameter in model.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.1)
    return model.eval(), tokenizer, -1 if name in DECODERS else 0


def truth(model, tokenizer, text: str, position: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and feature of one text alone; an empty text is one padding token to a decoder."""
    inputs = tokenizer(text or tokenizer.pad_token, return_tensors="pt")
    with torch.no_grad():
        output = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            output_hidden_states=True,
        )
    return output.logits[0], output.hidden_states[-1][0, position]


@pytest.mark.parametrize("peft", [False, True], ids=["plain", "peft"])
@pytest.mark.parametrize("name", DECODERS | ENCODERS)
def test_the_feature_is_the_last_hidden_state_that_the_classifier_reads(name, peft):
    model, tokenizer, position = make(name, peft=peft)
    assert isinstance(model, PeftModel) == peft
    texts = TEXTS[:-1]
    tokens = tokenizer(texts, return_attention_mask=False)["input_ids"]
    batch = pad(tokens, tokenizer, positions=takes_positions(model))
    assert len({len(row) for row in tokens}) > 1, "without padding this shows nothing"
    with torch.no_grad(), FeatureTap(model) as tap:
        logits = model(**batch).logits
        features = tap.feature()
    for row, text in enumerate(texts):
        expected_logits, expected = truth(model, tokenizer, text, position)
        torch.testing.assert_close(features[row], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[row], expected_logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_the_head_makes_the_logits_of_the_feature(name):
    model, tokenizer, _ = make(name)
    prediction = ClassifierPredictor(model, tokenizer).predict(TEXTS[:-1])
    for answer in prediction:
        with torch.no_grad():
            probabilities = model.score(answer.feature).softmax(-1)
        torch.testing.assert_close(probabilities, torch.tensor(answer.probabilities))


@pytest.mark.parametrize("name", DECODERS | ENCODERS)
def test_answers_do_not_depend_on_the_batch(name):
    model, tokenizer, _ = make(name)
    texts = [text for text in TEXTS if text]
    predictor = ClassifierPredictor(model, tokenizer)
    together = predictor.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = predictor.predict([text])
        assert alone.label == answer.label
        assert alone.probabilities == pytest.approx(answer.probabilities, abs=1e-5)
        torch.testing.assert_close(alone.feature, answer.feature, rtol=1e-4, atol=1e-5)


def test_only_left_padding_shifts_positions():
    assert "position_ids" not in pad([[6], [6, 7]], word_tokenizer(encoder=True), positions=True)
    tokenizer = make("llama")[1]
    batch = pad([[6], [6, 7, 8]], tokenizer, positions=True)
    assert batch["position_ids"].tolist() == [[0, 0, 0], [0, 1, 2]]
    assert batch["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert "position_ids" not in pad([[6], [6, 7]], tokenizer, positions=False)


def test_the_tap_is_gone_after_the_block():
    model, tokenizer, _ = make("llama")
    batch = pad([[6, 7]], tokenizer, positions=True)
    tap = FeatureTap(model)
    with tap:
        model(**batch)
        assert tap.token_states().shape == (1, 2, 32)
    model(**batch)
    with pytest.raises(RuntimeError, match="no forward pass"):
        tap.feature()


def test_the_feature_carries_gradients_and_is_float32():
    model, tokenizer, _ = make("llama")
    model.to(torch.bfloat16)
    with FeatureTap(model) as tap:
        model(**pad([[6, 7]], tokenizer, positions=True))
        feature = tap.feature()
    assert feature.dtype == torch.float32
    feature.sum().backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
