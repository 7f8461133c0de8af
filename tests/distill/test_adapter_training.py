"""Training through an adapter: checkpoints, half precision, parts of a batch, four bits."""

import copy
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    TrainerCallback,
)

from architectures import ADAPTERS, GQA, make
from making import GivenTargets, lessons, reviews, stage_trainer
from tiny import save_model
from w2sdefense.config import DistillConfig, StudentConfig, TrainingConfig
from w2sdefense.data import Dataset
from w2sdefense.distill.decoys import Decoy
from w2sdefense.distill.planting import count_flips, plant
from w2sdefense.distill.student import train_student
from w2sdefense.errors import ConfigError, MissingDependencyError, ModelError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.training.fit import CHECKPOINTS, training_arguments
from w2sdefense.victim import Victim, load_victim

pytestmark = pytest.mark.slow

ROWS = 16
TEXTS = ["great", "the dull story of a road and a city", "a warm film with it"]
SETTINGS = TrainingConfig(
    epochs=2, batch_size=8, learning_rate=3e-3, warmup_ratio=0.0, save_steps=1
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return reviews(tmp_path_factory.mktemp("d") / "d", train=ROWS, validation=8, test=8)


@pytest.fixture(scope="module")
def targets() -> GivenTargets:
    return GivenTargets(ROWS)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """Folder of a random classifier."""
    folder = tmp_path_factory.mktemp("m") / "llama"
    model, tokenizer, _ = make("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


WIDE = LlamaConfig(**{**GQA, "hidden_size": 64})
"""Four bits come in blocks of 64."""


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Folder of a random classifier that is wide enough for four bits."""
    return save_model(tmp_path_factory.mktemp("m") / "wide", LlamaForSequenceClassification, WIDE)


def opened(folder: Path, **settings) -> Victim:
    return load_victim(
        StudentConfig(model=str(folder), max_length=24, **settings), ("negative", "positive")
    )


def train(victim, data, targets, adapter, folder, *, training=SETTINGS, **options) -> Victim:
    return train_student(
        victim,
        lessons(data),
        targets,
        distill=DistillConfig(gamma=5.0),
        adapter=ADAPTERS[adapter],
        training=training,
        folder=folder,
        **options,
    )


def learn(victim: Victim, data: Dataset, adapter: str, folder: Path) -> Victim:
    """Plain training that is measured on its own rows, where the loss must fall."""
    training = SETTINGS.model_copy(update={"epochs": 4, "save_steps": None, "learning_rate": 1e-2})
    same = replace(data, validation=data.train)
    student = train(victim, same, None, adapter, folder, training=training)
    losses = [point["eval_loss"] for point in student.history if "eval_loss" in point]
    assert min(losses) < 0.95 * losses[0]
    return student


class Killed(BaseException):
    pass


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_run_that_stopped_goes_on_to_the_same_weights(llama, data, targets, tmp_path, adapter):
    whole = train(opened(llama), data, targets, adapter, tmp_path / "whole")

    def stop(step, *_):
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        train(opened(llama), data, targets, adapter, tmp_path / "cut", progress=stop)
    steps: list[int] = []
    again = {"resume": True, "progress": lambda step, *_: steps.append(step)}
    resumed = train(opened(llama), data, targets, adapter, tmp_path / "cut", **again)
    assert steps == [3, 3, 4, 4], "each of them is evaluated"
    expected = whole.model.state_dict()
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name
    resumed.save(tmp_path / "saved")
    answers = whole.predict(TEXTS)
    assert_same(opened(tmp_path / "saved", base=str(llama)).predict(TEXTS), answers)
    (before,) = opened(llama).predict(TEXTS[:1])
    assert (before.feature - answers[0].feature).abs().max() > 3e-4


def test_an_evaluation_is_told_of_before_a_checkpoint_says_that_it_was_done(
    llama, data, targets, tmp_path
):
    told = []

    def tell(step, steps, losses):
        saved = (tmp_path / CHECKPOINTS / f"checkpoint-{step}").is_dir()
        told.append((step, "eval_accuracy" in losses, saved))

    training = SETTINGS.model_copy(update={"save_steps": None})
    train(opened(llama), data, targets, "lora", tmp_path, training=training, progress=tell)
    assert (2, True, False) in told


def assert_same(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


class Epochs(TrainerCallback):
    """Keeps the trained weights beside the loss that they were evaluated with."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, dict[str, torch.Tensor]]] = []

    def on_evaluate(self, args, state, control, model=None, metrics=None, **rest):
        trained = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        self.seen.append((metrics["eval_loss"], trained))


@pytest.mark.parametrize("adapter", ["lora", "p-tuning", "prompt-tuning"])
def test_the_weights_that_are_kept_are_those_of_the_best_epoch(
    llama, data, targets, tmp_path, adapter
):
    victim = opened(llama)
    torch.manual_seed(0)
    model = attach_adapter(victim.model, ADAPTERS[adapter])
    rows = targets.columns(victim.task.rows(data.train))
    epochs = Epochs()
    # A rate at which the loss goes up and down.
    training = SETTINGS.model_copy(update={"learning_rate": 0.5, "save_steps": None, "epochs": 3})
    arguments = training_arguments(training, tmp_path, keep="best")
    stage_trainer(
        victim, model, rows, arguments, DistillConfig(), eval_dataset=rows, callbacks=[epochs]
    ).train()
    _, best = min(epochs.seen, key=lambda seen: seen[0])
    assert len(epochs.seen) == 3
    for name, value in model.named_parameters():
        if name in best:
            assert torch.equal(value, best[name]), name


def gradients(llama, data, targets, adapter, folder, **training) -> dict[str, torch.Tensor]:
    """Gradients of the first update of an adapter without dropout, or of the model without one."""
    kept: dict[str, torch.Tensor] = {}

    class Keep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
            named = model.named_parameters()
            kept.update({n: p.grad.clone() for n, p in named if p.grad is not None})

    victim = opened(llama)
    rows, model, distill = victim.task.rows(data.train), victim.model, None
    if adapter is not None:
        torch.manual_seed(0)
        model = attach_adapter(model, no_dropout(adapter))
        rows, distill = targets.columns(rows), DistillConfig(beta=0.7, gamma=3.0)
    settings = TrainingConfig(epochs=1, warmup_ratio=0.0, **training)
    arguments = training_arguments(settings, folder, keep="last")
    arguments.max_grad_norm = 0.0  # clipping would hide a wrong scale, as Adam does
    stage_trainer(victim, model, rows, arguments, distill, callbacks=[Keep()]).train()
    return kept


def no_dropout(adapter: str):
    config = ADAPTERS[adapter]
    if adapter in ("lora", "dora"):
        return config.model_copy(update={"lora_dropout": 0.0})
    return config


@pytest.mark.parametrize("adapter", ["lora", "p-tuning", "prompt-tuning", None])
def test_a_batch_in_parts_gives_the_same_update(llama, data, targets, tmp_path, adapter):
    whole = gradients(llama, data, targets, adapter, tmp_path, batch_size=ROWS)
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
    for cut in (
        {"batch_size": 4, "gradient_accumulation": 4},
        {"batch_size": ROWS, "gradient_checkpointing": True},
    ):
        pieces = gradients(llama, data, targets, adapter, tmp_path, **cut)
        assert pieces.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(pieces[name], gradient, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_half_precision_trains(llama, data, tmp_path, adapter):
    victim = opened(llama, dtype="bfloat16")
    student = learn(victim, data, adapter, tmp_path)
    assert student.model.get_base_model().model.norm.weight.dtype == torch.bfloat16


def test_p_tuning_is_refused_on_a_sharded_model(llama, data, targets, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="FSDP") as caught:
        train(opened(llama), data, targets, "p-tuning", tmp_path)
    assert "--adapter lora" in caught.value.fix


needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


@needs_bitsandbytes
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_is_trained_on_four_bits(wide, data, tmp_path, adapter):
    victim = opened(wide, load_in_4bit=True)
    layer = victim.model.model.layers[0].mlp.up_proj
    assert type(layer).__name__ == "Linear4bit"
    assert type(victim.model.score) is torch.nn.Linear
    before = copy.deepcopy(layer.weight.data)
    student = learn(victim, data, adapter, tmp_path)
    assert torch.equal(layer.weight.data, before)
    student.save(tmp_path / "saved")
    again = opened(tmp_path / "saved", base=str(wide), load_in_4bit=True)
    assert_same(again.predict(TEXTS), student.predict(TEXTS))


@needs_bitsandbytes
def test_decoys_are_unlearned_on_four_bits(wide, data, tmp_path, monkeypatch):
    monkeypatch.setattr("w2sdefense.distill.planting.WORKS", 0.0)  # all count, however they do
    victim = opened(wide, load_in_4bit=True)
    layer = victim.model.model.layers[0].mlp.up_proj
    before = copy.deepcopy(layer.weight.data)
    decoys = [Decoy("word", "zuv", 0), Decoy("word", "xel", 1)]
    planted = plant(victim, decoys, data, tmp_path, seed=0)
    with planted.put_in(victim.model):
        assert count_flips(victim, decoys, data.validation, seed=0) == list(planted.flips)
    student = train(victim, data, None, "lora", tmp_path, planted=planted)
    trained = [value for name, value in student.model.named_parameters() if "lora_B" in name]
    assert trained and all(value.abs().max() > 0 for value in trained)
    assert torch.equal(layer.weight.data, before)


@needs_bitsandbytes
def test_an_evaluation_does_not_take_the_gradients_of_four_bits(wide):
    victim = opened(wide, load_in_4bit=True)
    victim.predict(TEXTS)
    model = attach_adapter(victim.model, no_dropout("lora")).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    ids = torch.tensor([[6, 7, 8]])
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad
    )


@needs_bitsandbytes
def test_a_language_model_in_four_bits_gets_a_fresh_head(tmp_path):
    folder = save_model(tmp_path / "writer", LlamaForCausalLM, WIDE)
    config = StudentConfig(model=str(folder), load_in_4bit=True)
    model = load_victim(config, ("negative", "positive"), fresh_head_seed=0).model
    assert type(model.score) is torch.nn.Linear
    assert model.score.weight.std() > 0


@needs_bitsandbytes
@pytest.mark.skipif(torch.cuda.is_available(), reason="it is right on a GPU")
def test_rows_that_are_no_whole_blocks_are_refused(llama):
    with pytest.raises(ModelError, match="has 32 inputs"):
        opened(llama, load_in_4bit=True)


def test_without_the_package_four_bits_fail_at_once(llama, without_bitsandbytes):
    with pytest.raises(MissingDependencyError, match="bitsandbytes") as caught:
        opened(llama, load_in_4bit=True)
    assert "w2sdefense[quantization]" in caught.value.fix
