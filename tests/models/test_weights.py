"""Each weight that is measured came from a file and is a number; else the model is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
)

from architectures import ADAPTERS, make
from tiny import LLAMA, edit_json, edit_weights, save_model, word_tokenizer
from w2sdefense.errors import ModelError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.load import load_backbone, load_causal_lm, load_classifier
from w2sdefense.tasks.reasoning import Reasoning

NAMES = ("negative", "positive")
Q_PROJ = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


def save_adapter(base: Path, folder: Path, task: TaskType | None, **settings) -> Path:
    kind = AutoModelForSequenceClassification if task != "CAUSAL_LM" else AutoModelForCausalLM
    config = LoraConfig(
        task_type=task, target_modules=["q_proj"], init_lora_weights=False, **settings
    )
    get_peft_model(kind.from_pretrained(base), config).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(tiny_llama, tmp_path) -> Path:
    """A LoRA adapter with the head that its base lacks."""
    return save_adapter(tiny_llama, tmp_path / "adapter", TaskType.SEQ_CLS)


def open_adapter(folder: Path, base: Path):
    return load_classifier(resolve(str(folder), str(base)), label_names=NAMES)[0]


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e300])
def test_a_scale_that_is_no_number_is_refused(adapter, tiny_llama, alpha):
    edit_json(adapter / "adapter_config.json", lora_alpha=alpha)
    with pytest.raises(ModelError, match="NaN or infinite"):
        open_adapter(adapter, tiny_llama)


def test_a_config_whose_values_make_answers_no_numbers_is_refused(tmp_path):
    folder = save_model(tmp_path / "c", LlamaForSequenceClassification, LLAMA)
    edit_json(folder / "config.json", rms_norm_eps=float("nan"))
    with pytest.raises(ModelError, match="NaN or infinite"):
        load_classifier(str(folder), label_names=NAMES)


def test_a_config_that_asks_for_more_than_there_is_opens_nothing(tmp_path):
    folder = save_model(tmp_path / "c", LlamaForSequenceClassification, LLAMA)
    edit_json(folder / "config.json", intermediate_size=10**6)
    with pytest.raises(ModelError, match=r"defines 192,\d{3},\d{3} weights, but the files hold"):
        load_classifier(str(folder), label_names=NAMES)


@pytest.mark.parametrize(
    "values",
    [
        {"r": 10**7},
        {"rank_pattern": {"q_proj": 10**7}},
        {"layer_replication": [[0, 2], [0, 100_000]]},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 10**7},
    ],
)
def test_an_adapter_that_asks_for_more_than_its_file_holds_builds_nothing(
    adapter, tiny_llama, values
):
    edit_json(adapter / "adapter_config.json", **values)
    with pytest.raises(ModelError, match="ranks, tokens or layers, but no weight"):
        open_adapter(adapter, tiny_llama)


def test_a_model_that_writes_no_numbers_is_refused_when_it_is_asked():
    model, task = make("llama", "ForCausalLM")[0], number_writer()
    model.model.norm.variance_epsilon = float("nan")
    with pytest.raises(ModelError, match="NaN or infinite"):
        task.predict(model, ["the film"])


def number_writer() -> Reasoning:
    tokenizer = word_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return Reasoning.of(tokenizer, "the {text} is", "plain", 16, 2)


def test_an_adapter_without_a_head_needs_a_base_with_one(tiny_llama, tmp_path):
    folder = save_adapter(tiny_llama, tmp_path / "a", None)
    with pytest.raises(ModelError, match=r"neither holds score\.weight, .* random") as caught:
        open_adapter(folder, tiny_llama)
    assert "modules_to_save" in caught.value.fix
    classifier = save_model(tmp_path / "c", LlamaForSequenceClassification, LLAMA)
    trained = load_file(classifier / "model.safetensors")["score.weight"]
    assert torch.equal(open_adapter(folder, classifier).base_model.model.score.weight, trained)


def test_a_head_that_training_follows_may_be_fresh(tiny_llama, tmp_path):
    folder = save_adapter(tiny_llama, tmp_path / "a", None)
    load_classifier(resolve(str(folder), str(tiny_llama)), label_names=NAMES, fresh_head=True)


def test_half_of_the_tensors_of_a_language_adapter_are_not_enough(tiny_llama, tmp_path):
    folder = save_adapter(tiny_llama, tmp_path / "a", TaskType.CAUSAL_LM)
    load_causal_lm(resolve(str(folder), str(tiny_llama)))

    def halve(weights):
        for name in sorted(weights)[::2]:
            del weights[name]

    edit_weights(folder, halve)
    with pytest.raises(ModelError, match="2 are missing"):
        load_causal_lm(resolve(str(folder), str(tiny_llama)))


def test_weights_of_an_adapter_that_its_config_does_not_use_are_refused(adapter, tiny_llama):
    unused = Q_PROJ.format("A").replace("q_proj", "v_proj")
    edit_weights(adapter, lambda weights: weights.update({unused: torch.zeros(8, 32)}))
    with pytest.raises(ModelError, match="1 have no place in it, such as .*v_proj"):
        open_adapter(adapter, tiny_llama)


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("head", [True, False])
def test_every_kind_of_adapter_brings_its_head(tiny_llama, tmp_path, name, head):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_llama)
    attach_adapter(model, ADAPTERS[name]).save_pretrained(tmp_path / "a")
    if head:
        open_adapter(tmp_path / "a", tiny_llama)
        return
    edit_weights(tmp_path / "a", lambda w: w.pop(next(n for n in w if n.endswith("score.weight"))))
    with pytest.raises(ModelError, match=r"score\.weight"):
        open_adapter(tmp_path / "a", tiny_llama)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tiny_llama, tmp_path, value):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    name = "model.layers.0.mlp.up_proj.weight"

    def spoil(weights):
        weights[name][3, 5] = value

    edit_weights(folder, spoil)
    for load in (load_backbone, load_causal_lm):
        with pytest.raises(ModelError, match=r"NaN or infinite .*layers\.0\.mlp\.up_proj"):
            load(str(folder))


def test_weights_that_half_precision_cannot_hold_are_refused(tiny_llama, tmp_path):
    folder = shutil.copytree(tiny_llama, tmp_path / "m")
    edit_weights(folder, lambda weights: weights["model.norm.weight"].fill_(1e6))
    load_causal_lm(str(folder), dtype="bfloat16")
    with pytest.raises(ModelError, match="loaded as float16") as caught:
        load_causal_lm(str(folder), dtype="float16")
    assert "bfloat16" in caught.value.fix
