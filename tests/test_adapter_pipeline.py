"""Defending through virtual tokens from settings to record, and what cannot go together."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from architectures import ADAPTERS, make
from tiny import LLAMA, defend_settings, save_model, save_reviews
from w2sdefense.commands.defend import run_defend
from w2sdefense.commands.evaluate import run_evaluate
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.preflight import _check_weights
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun
from w2sdefense.config import StudentConfig
from w2sdefense.defenses import DEFENSES
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.evaluation.record import load_record, load_samples
from w2sdefense.models.adapters import attach_adapter

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with reviews and a classifier."""
    folder = tmp_path_factory.mktemp("place")
    save_reviews(folder / "reviews", train=24, validation=8, test=12)
    save_model(folder / "model", LlamaForSequenceClassification, LLAMA)
    return folder


def defend(place: Path, output: Path, bert: Path, **sections) -> DefendRun:
    settings = defend_settings(place / "model", place / "reviews", bert, output)
    settings["training"] = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-2}
    for name, values in sections.items():
        own = settings.get(name)
        both = isinstance(own, dict) and name != "adapter"
        settings[name] = own | values if both else values
    return DefendRun.model_validate(settings)


@pytest.mark.parametrize("adapter", ["p-tuning", "prompt-tuning"])
def test_a_student_is_defended_through_virtual_tokens(place, tmp_path, tiny_bert, display, adapter):
    config = {"adapter": adapter, "virtual_tokens": 4}
    run = defend(place, tmp_path / "run", tiny_bert, adapter=config)
    run_defend(run, display)
    record = load_record(run.output)
    assert record.config["adapter"]["adapter"] == adapter
    student = StudentConfig(model=str(run.output), base=str(place / "model"), max_length=24)
    again = EvaluateRun(student=student, data=run.data, test=run.test, output=tmp_path / "again")
    run_evaluate(again, display)
    assert load_samples(again.output) == load_samples(run.output)


HALF = {"student": {"dtype": "float16"}}
TOKENS = {"adapter": "p-tuning"}
TOKENS_THAT_WRITE = {
    "adapter": TOKENS,
    "merge": True,
    "task": "reasoning",
    "decoys": {"per_label": 0},
}


@pytest.mark.parametrize(
    ("sections", "problem", "fix"),
    [
        ({"adapter": TOKENS, "merge": True}, "cannot be merged into weights", "--merge"),
        (TOKENS_THAT_WRITE, "cannot be merged into weights", "--merge"),
        ({"adapter": TOKENS, "defense": "quantization"}, "merges the adapter", "--adapter lora"),
        ({"student": {"load_in_4bit": True}, "merge": True}, "4-bit", "--load-in-4bit"),
        (HALF, "at least its head.* cannot be done in float16", "bfloat16"),
        (HALF | {"defense": "psim"}, "psim trains weights of the model", "bfloat16"),
        (HALF | {"defense": "finetune"}, "finetune trains weights of the model", "bfloat16"),
        (HALF | {"defense": "merge"}, "merge trains weights of the model", "bfloat16"),
        (
            {"student": {"load_in_4bit": True}, "defense": "finetune"},
            "changes the weights",
            "w2s, lora",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_done(
    place, tmp_path, tiny_bert, display, sections, problem, fix
):
    if "student" in sections or sections.get("defense") == "quantization":
        pytest.importorskip("bitsandbytes")
    run = defend(place, tmp_path / "run", tiny_bert, **sections)
    with pytest.raises(ConfigError, match=problem) as caught:
        run_defend(run, display)
    assert fix in caught.value.fix
    assert not run.output.exists()


def test_poisoning_trains_all_parameters(place, tmp_path, display):
    student = StudentConfig(model=str(place / "model"), load_in_4bit=True)
    run = PoisonRun(student=student, output=tmp_path / "run")
    with pytest.raises(ConfigError, match="trains all parameters"):
        run_poison(run, display)


@pytest.mark.parametrize("task", ["classification", "reasoning"])
def test_nothing_is_poisoned_in_float16(place, tmp_path, display, task):
    student = StudentConfig(model=str(place / "model"), dtype="float16")
    run = PoisonRun(task=task, student=student, output=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"trains all parameters, .* float16") as caught:
        run_poison(run, display)
    assert "bfloat16" in caught.value.fix
    assert not run.output.exists()


@pytest.mark.parametrize(
    "sections",
    [
        {"defense": "onion"},
        {"defense": "merge", "merging": {"models": ["other"]}},
        {"task": "reasoning"},
    ],
)
def test_what_trains_no_weights_of_the_model_takes_float16(place, tmp_path, monkeypatch, sections):
    run = defend(place, tmp_path, tmp_path, **HALF, **sections)
    for check in ("check", "check_model"):
        monkeypatch.setattr(DEFENSES[run.defense], check, lambda *_, **__: None)
    _check_weights(run, DEFENSES[run.defense].of(run))


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_on_float16_has_weights_of_its_own_in_float32(adapter):
    """Only a head is trained in the precision of the model, and a model that writes has none."""
    for kind, half in ((LlamaForCausalLM, 0), (LlamaForSequenceClassification, 1)):
        model = attach_adapter(kind(LLAMA).half(), ADAPTERS[adapter])
        dtypes = [p.dtype for p in model.parameters() if p.requires_grad]
        assert set(dtypes) <= {torch.float16, torch.float32}
        assert dtypes.count(torch.float16) == half


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """Folder of an adapter of virtual tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    make("llama", adapter="prompt-tuning")[0].save_pretrained(folder)
    return folder


@pytest.mark.parametrize("defense", ["w2s", "finetune", "psim"])
def test_a_student_of_virtual_tokens_is_not_folded_in(
    place, tmp_path, tiny_bert, display, tokens, defense
):
    student = {"model": str(tokens), "base": str(place / "model")}
    run = defend(place, tmp_path / "run", tiny_bert, student=student, defense=defense)
    with pytest.raises(ModelError, match="cannot be merged"):
        run_defend(run, display)
    assert not run.output.exists()


def test_virtual_tokens_do_not_go_on_a_fold_that_is_not_kept(place, tmp_path, tiny_bert, display):
    make("llama", adapter="lora")[0].save_pretrained(tmp_path / "lora")
    student = {"model": str(tmp_path / "lora"), "base": str(place / "model")}
    run = defend(place, tmp_path / "run", tiny_bert, student=student, adapter=TOKENS)
    with pytest.raises(ConfigError, match="need the merged model, which is not saved"):
        run_defend(run, display)


def test_a_language_model_of_virtual_tokens_is_not_poisoned(tmp_path, display):
    save_model(tmp_path / "base", LlamaForCausalLM, LLAMA)
    make("llama", "ForCausalLM", adapter="p-tuning")[0].save_pretrained(tmp_path / "tokens")
    student = StudentConfig(model=str(tmp_path / "tokens"), base=str(tmp_path / "base"))
    run = PoisonRun(student=student, task="reasoning", output=tmp_path / "run")
    with pytest.raises(ModelError, match="cannot be merged"):
        run_poison(run, display)
