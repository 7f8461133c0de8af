"""The feature is what the classifier reads: the last real token of a decoder, [CLS] of an encoder.

Truth is `output_hidden_states=True`, one text at a time and without padding, where nothing can be
mistaken.
"""

import pytest
import torch
from peft import PeftModel
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    XLNetConfig,
    XLNetForSequenceClassification,
)

from architectures import DECODERS, ENCODERS, STUDENTS, make
from making import as_victim
from tiny import BART_SIZES, LLAMA, VOCABULARY, save_model, word_tokenizer
from w2sdefense.config import StudentConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.features import FeatureTap, backbone_of
from w2sdefense.models.load import load_classifier
from w2sdefense.models.tokenizer import pad, takes_positions
from w2sdefense.victim import load_victim

TEXTS = ["great", "the dull story of a road and a city", "mn", "a warm film with it", ""]
PAIRS = [
    *[(name, None) for name in DECODERS | ENCODERS],
    *[(name, adapter) for name in STUDENTS for adapter in ("lora", "p-tuning", "prompt-tuning")],
    *[(name, "dora") for name in ("llama", "bert")],
]


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


@pytest.mark.parametrize(("name", "adapter"), PAIRS)
def test_the_feature_is_the_last_hidden_state_that_the_classifier_reads(name, adapter):
    model, tokenizer, position = make(name, adapter=adapter)
    assert isinstance(model, PeftModel) == (adapter is not None)
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
    assert (logits[0] - logits[1]).abs().max() > 1e-3, "the text is read at all"


@pytest.mark.parametrize(("name", "adapter"), PAIRS)
def test_the_head_makes_the_logits_of_the_feature(name, adapter):
    model, tokenizer, _ = make(name, adapter=adapter)
    for answer in as_victim(model, tokenizer).predict(TEXTS[:-1]):
        with torch.no_grad():
            probabilities = head(model, name, answer.feature[None]).softmax(-1)[0]
        torch.testing.assert_close(probabilities, torch.tensor(answer.probabilities))


def head(model, name: str, feature: torch.Tensor) -> torch.Tensor:
    """What an architecture does with the state of one token."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if name in DECODERS:
        return base.score(feature)
    if name == "distilbert":
        return base.classifier(base.pre_classifier(feature).relu())
    if name == "bert":
        feature = backbone_of(model).pooler(feature[:, None])
        return base.classifier(feature)
    return base.classifier(feature[:, None])


@pytest.mark.parametrize("name", STUDENTS)
@pytest.mark.parametrize("adapter", [None, "p-tuning"])
def test_answers_do_not_depend_on_the_batch(name, adapter):
    model, tokenizer, _ = make(name, adapter=adapter)
    texts = TEXTS[:-1]
    predictor = as_victim(model, tokenizer)
    together = predictor.predict(texts)
    for text, answer in zip(texts, together, strict=True):
        (alone,) = predictor.predict([text])
        assert alone.answer == answer.answer
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


def test_a_family_without_a_classifier_can_be_read_where_it_writes():
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = GraniteConfig(
        **sizes, vocab_size=40, intermediate_size=64, num_key_value_heads=2, pad_token_id=0
    )
    model = GraniteForCausalLM(config).eval()
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad(), FeatureTap(model) as tap:
        hidden = model(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(tap.token_states(), hidden)


LAST_TOKEN_OF_A_DECODER = {
    "bart": (BartForSequenceClassification, BartConfig(**BART_SIZES, eos_token_id=3)),
    "xlnet": (
        XLNetForSequenceClassification,
        XLNetConfig(vocab_size=len(VOCABULARY), d_model=32, n_layer=1, n_head=4, d_inner=64),
    ),
}


@pytest.mark.parametrize("name", LAST_TOKEN_OF_A_DECODER)
def test_a_head_that_reads_another_token_than_the_feature_is_refused(name, tmp_path):
    kind, config = LAST_TOKEN_OF_A_DECODER[name]
    config.id2label = {0: "a", 1: "b"}
    torch.manual_seed(0)
    model = kind(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    word_tokenizer(encoder=True).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not read the first token only"):
        load_classifier(str(tmp_path), label_names=("a", "b"))


def test_the_width_is_that_of_the_feature_where_opt_projects_it(tmp_path):
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 64, "num_hidden_layers": 1}
    config = OPTConfig(
        **sizes, vocab_size=len(VOCABULARY), num_attention_heads=4, max_position_embeddings=64
    )
    save_model(tmp_path, OPTForSequenceClassification, config)
    victim = load_victim(StudentConfig(model=str(tmp_path)), ("a", "b"))
    assert victim.width == len(victim.predict(["the film"])[0].feature) == 16


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    config = LlamaConfig(**LLAMA.to_dict() | {"vocab_size": 20})
    save_model(tmp_path, LlamaForSequenceClassification, config)
    with pytest.raises(ModelError, match="gives the token [0-9]+, and the model knows 20"):
        load_classifier(str(tmp_path), label_names=("a", "b"))


def test_a_token_that_only_some_texts_have_is_told_when_they_are_read(tmp_path):
    config = LlamaConfig(**LLAMA.to_dict() | {"vocab_size": len(VOCABULARY) - 1})
    save_model(tmp_path, LlamaForSequenceClassification, config)
    victim = load_victim(StudentConfig(model=str(tmp_path)), ("a", "b"))
    victim.predict(["the film"])
    with pytest.raises(ModelError, match="gives the token 76, and the model knows 76"):
        victim.predict(["the film", VOCABULARY[-1]])
