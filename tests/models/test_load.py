"""Opening checkpoints: heads, labels, adapters, padding; and what is refused, with its way out."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
)

from tiny import BERT, LLAMA, edit_json, edit_weights, save_bert, save_model, word_tokenizer
from w2sdefense.config import StudentConfig
from w2sdefense.errors import ConfigError, ModelError, UnsafeCheckpointError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import cache_folder, make_cache
from w2sdefense.models.load import load_backbone, load_classifier
from w2sdefense.models.tokenizer import reads_last_token
from w2sdefense.victim import load_victim

NAMES = ("negative", "positive")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("c") / "c", LlamaForSequenceClassification, LLAMA)


@pytest.fixture
def adapter(tiny_llama, tmp_path) -> Path:
    """A LoRA adapter with a head of its own, on the tiny Llama; its base is named by nobody."""
    base = AutoModelForSequenceClassification.from_pretrained(tiny_llama)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


# What is not there


def test_a_missing_folder(tmp_path):
    with pytest.raises(ModelError) as caught:
        resolve(str(tmp_path / "nothing"))
    assert str(tmp_path / "nothing") in caught.value.problem
    assert "smollm2-135m" in caught.value.fix


def test_a_hub_id_that_cannot_be_reached():
    with pytest.raises(ModelError, match="neither a folder nor reachable") as caught:
        resolve("nobody/no-such-model")
    assert "connection" in caught.value.fix


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelError, match="holds no weights"):
        resolve(str(tmp_path))


def test_a_teacher_with_missing_weights_is_refused(tmp_path):
    folder = save_bert(tmp_path / "bert")
    edit_weights(folder, lambda weights: weights.pop("encoder.layer.1.output.dense.weight"))
    with pytest.raises(ModelError, match="incomplete"):
        load_backbone(str(folder))


def test_a_teacher_needs_no_pooler(tmp_path):
    folder = save_bert(tmp_path / "bert")
    edit_weights(folder, lambda weights: [weights.pop(n) for n in [*weights] if "pooler" in n])
    load_backbone(str(folder))


# Heads and labels


def test_a_language_model_is_no_victim_but_becomes_one(tiny_llama):
    config = StudentConfig(model=str(tiny_llama))
    with pytest.raises(ModelError, match=r"no classification head; it is LlamaForCausalLM") as got:
        load_victim(config, NAMES)
    assert "w2s poison" in got.value.fix
    victim = load_victim(config, ("a", "b", "c"), fresh_head_seed=0)
    assert victim.label_names == ("a", "b", "c")
    assert len(victim.predict(["the film"])[0].probabilities) == 3


def test_the_seed_makes_the_head(tiny_llama):
    config = StudentConfig(model=str(tiny_llama))
    first, again, other = (
        load_victim(config, NAMES, fresh_head_seed=seed).model.score.weight for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_opening_keeps_the_weights(tiny_llama):
    stored = load_file(tiny_llama / "model.safetensors")
    opened = load_victim(
        StudentConfig(model=str(tiny_llama)), NAMES, fresh_head_seed=0
    ).model.state_dict()
    shared = stored.keys() & opened.keys()
    assert len(shared) == len(opened) - 1  # all but the head
    assert all(torch.equal(stored[name], opened[name]) for name in shared)


def test_a_fresh_head_needs_names(tiny_llama):
    with pytest.raises(ModelError, match="no label names"):
        load_classifier(str(tiny_llama), fresh_head=True)


def test_another_number_of_labels_is_refused(classifier):
    with pytest.raises(ModelError, match="has 2 labels .* the data has 3") as caught:
        load_victim(StudentConfig(model=str(classifier)), ("a", "b", "c"))
    assert caught.value.fix


def test_placeholder_names_are_replaced(classifier):
    victim = load_victim(StudentConfig(model=str(classifier)), NAMES)
    assert victim.label_names == NAMES
    assert victim.model.config.id2label == {0: "negative", 1: "positive"}


def test_names_of_its_own_are_kept(tmp_path):
    config = type(LLAMA)(**LLAMA.to_dict() | {"id2label": {0: "good", 1: "bad"}})
    folder = save_model(tmp_path / "c", LlamaForSequenceClassification, config)
    assert load_victim(StudentConfig(model=str(folder)), NAMES).label_names == ("good", "bad")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_opened_in_the_precision_asked_for(classifier, dtype):
    model, _ = load_classifier(str(classifier), dtype=dtype)
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


# Padding


def test_decoders_pad_left_and_encoders_right(tiny_llama, tiny_bert):
    decoder, words = load_classifier(str(tiny_llama), label_names=NAMES, fresh_head=True)
    assert (words.padding_side, words.truncation_side) == ("left", "right")
    assert reads_last_token(decoder.config)
    encoder, words = load_classifier(str(tiny_bert), label_names=NAMES, fresh_head=True)
    assert (words.padding_side, words.truncation_side) == ("right", "right")
    assert not reads_last_token(encoder.config)


def test_a_padding_token_is_filled_in(tiny_llama):
    assert word_tokenizer().pad_token is None
    model, words = load_classifier(str(tiny_llama), label_names=NAMES, fresh_head=True)
    assert words.pad_token == "</s>"
    assert model.config.pad_token_id == words.pad_token_id == 5


def test_a_tokenizer_that_cannot_pad_is_refused(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text())
    without = {k: v for k, v in values.items() if k not in {"eos_token", "unk_token"}}
    path.write_text(json.dumps(without))
    with pytest.raises(ModelError, match="no token to pad with"):
        load_classifier(str(folder), label_names=NAMES, fresh_head=True)


# Adapters


def test_an_adapter_is_not_opened_without_a_base(adapter, tiny_llama):
    with pytest.raises(ModelError, match="is an adapter for") as caught:
        load_victim(StudentConfig(model=str(adapter)), NAMES)
    assert str(tiny_llama) in caught.value.problem
    assert "--base" in caught.value.fix


def test_an_adapter_opens_on_its_base(adapter, tiny_llama):
    victim = load_victim(StudentConfig(model=str(adapter), base=str(tiny_llama)), NAMES)
    stored = load_file(adapter / "adapter_model.safetensors")
    loaded = {n.replace(".default", ""): v for n, v in victim.model.state_dict().items()}
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"
    assert stored[name].abs().sum() > 0
    assert torch.equal(loaded[name], stored[name])
    head = "base_model.model.score"
    assert torch.equal(loaded[f"{head}.modules_to_save.weight"], stored[f"{head}.weight"])


SLOW = "(([a-z_0-9]|[.])+)*!"


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": SLOW},
        {"exclude_modules": SLOW},
        {"rank_pattern": {SLOW: 4}},
        {"layers_pattern": [SLOW], "layers_to_transform": [0]},
        {"modules_to_save": ["score", SLOW]},
    ],
)
def test_expressions_that_match_without_an_end_are_refused(
    adapter, tiny_llama, values, monkeypatch
):
    monkeypatch.setattr("w2sdefense.bounded.SECONDS", 0.3)
    edit_json(adapter / "adapter_config.json", **values)
    with pytest.raises(ModelError, match="invalid regular expression: it takes more"):
        load_victim(StudentConfig(model=str(adapter), base=str(tiny_llama)), NAMES)


def test_an_adapter_with_an_expression_opens(adapter, tiny_llama):
    some = r".*?(?:self_attn|mlp)\.(?:q|v)_proj"
    edit_json(adapter / "adapter_config.json", target_modules=some)
    load_victim(StudentConfig(model=str(adapter), base=str(tiny_llama)), NAMES)


def test_an_adapter_on_the_wrong_base(adapter, tmp_path):
    other = type(LLAMA)(**LLAMA.to_dict() | {"hidden_size": 16})
    base = save_model(tmp_path / "narrow", LlamaForSequenceClassification, other)
    with pytest.raises(ModelError, match="does not fit") as caught:
        load_victim(StudentConfig(model=str(adapter), base=str(base)), NAMES)
    assert str(base) in caught.value.problem
    assert "base it was trained on" in caught.value.fix


def test_an_adapter_on_another_architecture(adapter, tiny_bert):
    with pytest.raises(ModelError, match="does not fit"):
        load_victim(StudentConfig(model=str(adapter), base=str(tiny_bert)), NAMES)


def test_a_base_for_a_whole_model_is_a_mistake(classifier):
    with pytest.raises(ModelError, match="not an adapter") as caught:
        load_victim(StudentConfig(model=str(classifier), base="smollm2-135m"), NAMES)
    assert "--base" in caught.value.fix


def test_an_adapter_does_not_stand_on_an_adapter(adapter):
    with pytest.raises(ModelError, match="is an adapter") as caught:
        load_victim(StudentConfig(model=str(adapter), base=str(adapter)), NAMES)
    assert "whole model" in caught.value.fix


def test_an_adapter_as_a_pickle_is_refused(adapter, tiny_llama):
    # peft would look for adapter_model.bin, whatever other safetensors lie about.
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.rename(adapter / "other.safetensors")
    with pytest.raises(UnsafeCheckpointError, match=r"adapter_model\.bin"):
        load_victim(StudentConfig(model=str(adapter), base=str(tiny_llama)), NAMES)


def test_an_adapter_from_a_hub_does_not_fetch_its_base(adapter, publish):
    publish("somebody/adapter", adapter)
    with pytest.raises(ModelError, match="somebody/adapter is an adapter"):
        load_victim(StudentConfig(model="somebody/adapter"), NAMES)


def test_an_adapter_is_refused_as_a_teacher(adapter):
    with pytest.raises(ModelError, match="Name a whole model"):
        load_backbone(str(adapter))


def test_the_width_is_known_without_the_weights(tiny_llama, adapter):
    assert resolve(str(tiny_llama)).width == 32
    assert resolve(str(adapter), str(tiny_llama)).width == 32


def test_an_encoder_with_a_head_opens(tmp_path):
    folder = save_model(tmp_path / "c", BertForSequenceClassification, BERT)
    word_tokenizer(encoder=True).save_pretrained(folder)
    config = StudentConfig(model=str(folder), max_length=64)
    assert load_victim(config, NAMES).label_names == NAMES


def test_a_saved_model_opens_again(tiny_llama, tmp_path):
    victim = load_victim(StudentConfig(model=str(tiny_llama)), NAMES, fresh_head_seed=3)
    victim.save(tmp_path / "m")
    again = load_victim(StudentConfig(model=str(tmp_path / "m")))
    assert again.label_names == NAMES
    texts = ["great film", "the dull story of a road"]
    assert again.predict(texts)[1].probabilities == victim.predict(texts)[1].probabilities


# What a classifier reads


POOLED = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    **{f"{kind}_token_id": 0 for kind in ("pad", "bos", "eos")},
}


def save_pooled(folder: Path, family: str, kind: str, pooling: str) -> str:
    """A tiny model of a family that can classify by one token or by all."""
    config = getattr(transformers, f"{family}Config")(**POOLED, classifier_pooling=pooling)
    if family == "ModernBert":
        config.cls_token_id = config.sep_token_id = 0
    save_model(folder, getattr(transformers, f"{family}{kind}"), config)
    return str(folder)


FAMILIES = pytest.mark.parametrize(
    ("family", "first", "other"), [("ModernBert", "cls", "mean"), ("EuroBert", "bos", "late")]
)


@FAMILIES
def test_a_fresh_head_reads_the_first_token(tmp_path, family, first, other):
    """Its default may be all of them; the feature of a text is one token's."""
    bare = save_pooled(tmp_path / "bare", family, "Model", other)
    victim = load_victim(StudentConfig(model=bare), NAMES, fresh_head_seed=0)
    assert victim.model.config.classifier_pooling == first
    victim.predict(["the great film", "the film"])
    victim.save(tmp_path / "saved")
    again = load_victim(StudentConfig(model=str(tmp_path / "saved")))
    assert again.predict(["the film"])[0].probabilities == pytest.approx(
        victim.predict(["the film"])[0].probabilities
    )


@FAMILIES
def test_a_head_that_learned_to_read_all_tokens_is_refused(tmp_path, family, first, other):
    trained = save_pooled(tmp_path / "trained", family, "ForSequenceClassification", other)
    with pytest.raises(ModelError, match=f"classifier_pooling: {other}") as caught:
        load_classifier(trained, label_names=NAMES)
    assert f"classifier_pooling: {first}" in caught.value.fix


@FAMILIES
def test_an_adapter_whose_head_learned_to_read_all_tokens_is_refused(
    tmp_path, family, first, other
):
    """It brings the head; on another token that one would answer wrongly, and nobody would know."""
    base = save_pooled(tmp_path / "base", family, "Model", other)
    model = AutoModelForSequenceClassification.from_pretrained(base)
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules="all-linear")
    get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match=f"classifier_pooling: {other}"):
        load_victim(StudentConfig(model=str(tmp_path / "adapter"), base=base), NAMES)


@pytest.mark.parametrize("value", ["", "some/where"])
def test_a_cache_that_is_no_absolute_path_counts_as_not_set(monkeypatch, value):
    monkeypatch.delenv("W2S_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == Path.home() / ".cache" / "w2sdefense"


def test_a_cache_that_cannot_be_written_to_is_told_before_the_work(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot be written to") as caught:
        make_cache(cache_folder() / "models")
    assert "W2S_CACHE" in caught.value.fix
