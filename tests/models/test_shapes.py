"""Counts of parameters: those of the published models, and those of what is really built."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    Qwen2Config,
)

from tiny import SIZES
from w2sdefense.config import AdapterConfig
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.sizes import STUDENTS, decoder, known_student, read_config, skeleton_sizes


def count(student: str, adapter: AdapterConfig, labels: int):
    """What `w2s plan` counts."""
    config = STUDENTS.get(student) or read_config(student)
    return skeleton_sizes(student, config, adapter, labels)


TINY = {
    "llama": decoder(3, 32, 64, 4, 2, 50),
    "qwen2, tied": decoder(2, 48, 80, 6, 1, 70, tied=True, kind=Qwen2Config),
    "all heads": decoder(1, 32, 24, 4, 4, 31, tied=True),
}


def built(config, adapter: AdapterConfig, labels: int) -> tuple[int, int, int]:
    """Parameters of the language model, of the classifier with its adapter, and trained ones."""
    config.num_labels = labels
    with torch.device("meta"):
        writes = AutoModelForCausalLM.from_config(config)
    whole = attach_adapter(AutoModelForSequenceClassification.from_config(config), adapter)
    trained = [p for p in whole.parameters() if p.requires_grad]
    return tuple(
        sum(p.numel() for p in some) for some in (writes.parameters(), whole.parameters(), trained)
    )


@pytest.mark.parametrize("targets", ["all-linear", "q_proj, v_proj", "down_proj", None])
@pytest.mark.parametrize("name", TINY)
def test_the_skeleton_has_the_parameters_of_what_is_built(name, targets):
    adapter = AdapterConfig(lora_r=5, target_modules=targets)
    sizes = skeleton_sizes(name, TINY[name], adapter, 3)
    counts = built(TINY[name], adapter, 3)
    assert (sizes.language_model, sizes.total, sizes.trainable) == counts


@pytest.mark.parametrize(
    ("name", "student"),
    [
        ("Qwen2.5-14b", "Qwen/Qwen2.5-14B"),
        ("mirror/Qwen2.5-14B", "Qwen/Qwen2.5-14B"),
        ("LLaMA3-8B", "meta-llama/Meta-Llama-3-8B"),
        ("Vicuna-7B", "lmsys/vicuna-7b-v1.5"),
        ("Qwen2.5-32B", None),
    ],
)
def test_a_student_is_known_by_more_than_one_name(name, student):
    assert known_student(name) == student


def test_some_layers_of_a_student_are_counted_on_its_skeleton():
    some = count("smollm2-135m", AdapterConfig(adapter_layers="20:"), 2)
    every = count("smollm2-135m", AdapterConfig(), 2)
    assert some.adapter == every.adapter // 3
    assert some.backbone == every.backbone


@pytest.mark.parametrize(
    "config",
    [
        BertConfig(**SIZES),
        GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    ],
    ids=["bert", "gpt2"],
)
def test_a_folder_is_counted_from_its_config_alone(tmp_path, config):
    config.architectures = ["Anything"]
    config.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    adapter = AdapterConfig(lora_r=4)
    sizes = count(str(tmp_path), adapter, 3)
    counts = built(read_config(str(tmp_path)), adapter, 3)
    assert (sizes.language_model, sizes.total, sizes.trainable) == counts
    assert (sizes.layers, sizes.queries, sizes.keys, sizes.gated) == (2, 32, 32, False)
    assert sizes.intermediate == (64 if config.model_type == "bert" else 128)


def test_what_cannot_be_planned_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(ModelError, match="without a connection: .*Qwen2.5-14B"):
        count(str(tmp_path), AdapterConfig(), 2)
    with pytest.raises(ConfigError, match="--target-modules"):
        count("smollm2-135m", AdapterConfig(target_modules="nothing"), 2)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="trained on"):
        count(str(tmp_path), AdapterConfig(), 2)
