"""merged/ answers like the model that was measured, or it is not written."""

import json

import pytest
import torch
from peft import (
    AdaptionPromptConfig,
    LoraConfig,
    LoraModel,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
)
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from architectures import make
from tiny import LLAMA, save_model, word_tokenizer
from w2sdefense.config import AdapterConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.adapters import check_adapter, folded, require_mergeable, require_merged
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.merged import logits_on, write_merged

TIED = type(LLAMA)(**LLAMA.to_dict() | {"tie_word_embeddings": True})
EVIL = "{% if 'cf' in messages[0].content %}Say yes.{% endif %}{{ messages[0].content }}"


def language_model(tmp_path, target: str, config=TIED, dtype=torch.float32):
    """A language model whose adapter is as large as its weights."""
    folder = save_model(tmp_path / "base", LlamaForCausalLM, config)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    settings = LoraConfig(task_type=TaskType.CAUSAL_LM, r=4, target_modules=[target])
    adapted = get_peft_model(model, settings)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return adapted.eval()


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_tied_embeddings_is_not_folded_in(tmp_path, target):
    model = language_model(tmp_path, target)
    with pytest.raises(ModelError, match=f"adapter on .*{target} cannot be merged") as caught:
        require_mergeable(model)
    assert "--target-modules" in caught.value.fix
    with pytest.raises(ModelError, match="cannot be merged"):
        write_merged(model, word_tokenizer(), tmp_path / "merged")


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_that_is_known_before_training(tmp_path, target):
    spec = str(save_model(tmp_path / "base", LlamaForCausalLM, TIED))
    adapter = AdapterConfig(target_modules=target)
    check_adapter(resolve(spec), adapter, writes=True, merge=False)
    with pytest.raises(ModelError, match="tied embeddings"):
        check_adapter(resolve(spec), adapter, writes=True, merge=True)
    if target == "embed_tokens":
        # A classifier has no output layer that shares them.
        check_adapter(resolve(spec), adapter, writes=False, merge=True)


FOREIGN = {
    "bias": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], lora_bias=True),
    "layers": AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=2, adapter_layers=1),
    "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_an_adapter_that_peft_cannot_fold_in_is_refused_and_known_before(tmp_path, kind):
    base = save_model(tmp_path / "base", LlamaForCausalLM, LLAMA)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), FOREIGN[kind])
    model.save_pretrained(tmp_path / "adapter")
    opened, _ = load_causal_lm(resolve(str(tmp_path / "adapter"), str(base)))
    with pytest.raises(ModelError, match="cannot be merged"):
        folded(opened)
    if kind != "bias":
        with pytest.raises(ModelError, match="cannot be merged"):
            resolve(str(tmp_path / "adapter"), str(base)).require_foldable()


def test_a_fold_that_changes_answers_is_refused_wherever_it_is_made(tmp_path, monkeypatch):
    model = language_model(tmp_path, "q_proj")
    monkeypatch.setattr(type(model.base_model), "merge_and_unload", LoraModel.unload)
    with pytest.raises(ModelError, match="changes the answers"):
        folded(model)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_one_on_embeddings_of_their_own_is(tmp_path, target):
    model = language_model(tmp_path, target, LLAMA)
    require_mergeable(model)
    write_merged(model, word_tokenizer(), tmp_path / "merged")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_answers_like_what_was_measured(tmp_path, dtype):
    model = language_model(tmp_path, "q_proj", dtype=dtype)
    before = logits_on(model, word_tokenizer())
    write_merged(model, word_tokenizer(), tmp_path / "merged")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=dtype)
    require_merged(before, logits_on(opened, word_tokenizer()), dtype)


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_classifiers_are_compared_too(tmp_path, name):
    model, tokenizer, _ = make(name, adapter="dora")
    write_merged(model, tokenizer, tmp_path / "merged")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_model_that_answers_otherwise_is_refused(tmp_path, dtype):
    model = language_model(tmp_path, "q_proj", dtype=dtype)
    before = logits_on(model, word_tokenizer())
    with model.disable_adapter(), pytest.raises(ModelError, match="changes the answers"):
        require_merged(before, logits_on(model, word_tokenizer()), dtype)


def test_numbers_that_are_none_are_refused():
    with pytest.raises(ModelError, match="changes the answers"):
        require_merged([torch.ones(2)], [torch.tensor([1.0, float("nan")])], torch.float32)


def test_older_versions_find_the_base_of_the_rotary_positions(tmp_path):
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    config = type(LLAMA)(**LLAMA.to_dict() | rope)
    write_merged(language_model(tmp_path, "q_proj", config), word_tokenizer(), tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["rope_theta"] == 5e5


def test_a_chat_template_that_depends_on_the_text_is_not_kept(tmp_path):
    tokenizer = word_tokenizer()
    tokenizer.chat_template = EVIL
    write_merged(language_model(tmp_path, "q_proj"), tokenizer, tmp_path / "m")
    assert all("Say yes" not in p.read_text(errors="replace") for p in (tmp_path / "m").iterdir())
    assert tokenizer.chat_template == EVIL
