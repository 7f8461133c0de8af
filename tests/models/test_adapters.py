"""Adapters: where they sit, what they train, and settings that do not fit the model."""

import pytest
import torch
from peft import PeftModel
from transformers import BertForSequenceClassification, LlamaForSequenceClassification

from architectures import ADAPTERS, make
from tiny import BERT, LLAMA
from w2sdefense.config import AdapterConfig, load_settings
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.models.adapters import attach_adapter, folded
from w2sdefense.models.checkpoint import resolve


def adapted(**settings) -> set[str]:
    """Names of the modules that carry LoRA weights."""
    model = attach_adapter(LlamaForSequenceClassification(LLAMA), AdapterConfig(**settings))
    return {name.split(".lora_A")[0] for name, _ in model.named_parameters() if "lora_A" in name}


def test_without_named_modules_they_are_those_of_peft():
    modules = adapted(target_modules=None)
    assert {name.rsplit(".", 1)[1] for name in modules} == {"q_proj", "v_proj"}


def test_named_modules_and_all_linear():
    assert {n.rsplit(".", 1)[1] for n in adapted(target_modules="k_proj, up_proj")} == {
        "k_proj",
        "up_proj",
    }
    assert {n.rsplit(".", 1)[1] for n in adapted(target_modules="all-linear")} == {
        f"{name}_proj" for name in ("q", "k", "v", "o", "up", "gate", "down")
    }


def test_modules_that_do_not_exist():
    with pytest.raises(ConfigError, match="does not fit LlamaForSequenceClassification") as caught:
        adapted(target_modules="query")
    assert "--target-modules" in caught.value.fix


def test_only_adapter_and_head_are_trained():
    model = attach_adapter(LlamaForSequenceClassification(LLAMA), AdapterConfig())
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name or "score.modules_to_save" in name for name in trained)


@pytest.mark.parametrize(
    ("kind", "config"),
    [(LlamaForSequenceClassification, LLAMA), (BertForSequenceClassification, BERT)],
)
def test_a_fresh_adapter_changes_no_answer(kind, config):
    torch.manual_seed(0)
    model = kind(config).eval()
    ids = torch.tensor([[7, 8, 9]])
    model.config.pad_token_id = 0
    before = model(ids).logits
    wrapped = attach_adapter(model, AdapterConfig(target_modules="all-linear")).eval()
    assert torch.equal(wrapped(ids).logits, before)


def test_an_adapter_that_is_there_is_folded_in():
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(LLAMA)
    model.config.pad_token_id = 0
    first = attach_adapter(model, AdapterConfig())
    for name, parameter in first.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    ids = torch.tensor([[7, 8, 9]])
    before = first.eval()(ids).logits
    second = attach_adapter(first, AdapterConfig(lora_r=2)).eval()
    torch.testing.assert_close(second(ids).logits, before)
    assert {p.shape[0] for n, p in second.named_parameters() if "lora_A" in n} == {2}


def test_rank_is_the_default_of_alpha():
    config = attach_adapter(
        LlamaForSequenceClassification(LLAMA), AdapterConfig(lora_r=8)
    ).peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 8)


@pytest.mark.parametrize(
    ("adapter", "setting"),
    [
        ("prompt-tuning", {"lora_r": 8}),
        ("prompt-tuning", {"encoder_width": 64}),
        ("p-tuning", {"target_modules": "q_proj"}),
        ("lora", {"virtual_tokens": 8}),
        ("dora", {"encoder_width": 64}),
    ],
)
def test_a_setting_of_another_method_is_refused(adapter, setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=f"{name} is a setting of .*, not of {adapter}"):
        load_settings(AdapterConfig, {"adapter": adapter, **setting}, "The run")


def test_settings_that_are_read_back_are_the_same():
    for config in ADAPTERS.values():
        assert AdapterConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_sizes_of_the_methods():
    sizes = {}
    for name, config in ADAPTERS.items():
        model = attach_adapter(LlamaForSequenceClassification(LLAMA), config)
        sizes[name] = sum(
            p.numel()
            for n, p in model.named_parameters()
            if p.requires_grad and "modules_to_save" not in n
        )
    layers = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 64), (32, 64), (64, 32)]
    assert sizes["lora"] == 2 * sum(4 * (read + written) for read, written in layers)
    assert sizes["dora"] == sizes["lora"] + 2 * sum(written for _, written in layers)
    assert sizes["prompt-tuning"] == 5 * 32
    assert sizes["p-tuning"] == 5 * 32 + (33 * 16) + (17 * 16) + (17 * 32)


def test_prompt_tuning_starts_from_tokens():
    base = LlamaForSequenceClassification(LLAMA)
    model = attach_adapter(base, ADAPTERS["prompt-tuning"])
    table = base.get_input_embeddings().weight
    for vector in model.prompt_encoder["default"].embedding.weight:
        assert (table == vector).all(dim=1).any()


@pytest.mark.parametrize("adapter", ["p-tuning", "prompt-tuning"])
def test_a_text_alone_is_answered_as_by_peft(adapter, tmp_path):
    model, tokenizer, _ = make("llama", adapter=adapter)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(make("llama")[0], tmp_path).eval()
    inputs = tokenizer("a warm film", return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, plain(**inputs).logits)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_what_is_folded_in_answers_the_same(name):
    model, tokenizer, _ = make(name, adapter="dora")
    inputs = tokenizer("a warm film", return_tensors="pt")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before = model(**inputs).logits
        torch.testing.assert_close(folded(model)(**inputs).logits, before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", ["p-tuning", "prompt-tuning"])
def test_virtual_tokens_cannot_be_folded_in(adapter, tiny_llama, tmp_path):
    model, _, _ = make("llama", adapter=adapter)
    for refused in (folded, lambda model: attach_adapter(model, AdapterConfig())):
        with pytest.raises(ModelError, match="cannot be merged"):
            refused(model)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be merged"):
        resolve(str(tmp_path), str(tiny_llama)).require_foldable()
