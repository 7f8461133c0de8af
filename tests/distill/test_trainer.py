"""The trainer: what it logs, and that every way to cut a batch up gives the same gradients."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainerCallback

from making import GivenTargets, lessons, stage_trainer
from tiny import save_reviews
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    DistillConfig,
    StudentConfig,
    TrainingConfig,
)
from w2sdefense.data import Dataset, load_dataset
from w2sdefense.distill.student import train_student
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.training.fit import training_arguments
from w2sdefense.victim import Victim, load_victim

pytestmark = pytest.mark.slow

ROWS = 32
ADAPTER = AdapterConfig(lora_r=4, lora_dropout=0.0, target_modules="all-linear")
DISTILL = DistillConfig(alpha=1.0, beta=0.7, gamma=3.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    folder = save_reviews(tmp_path_factory.mktemp("d") / "d", train=ROWS, validation=8, test=8)
    return load_dataset(DataConfig(dataset=str(folder)))


@pytest.fixture(scope="module")
def targets() -> GivenTargets:
    return GivenTargets(ROWS)


@pytest.fixture(params=["tiny_llama", "tiny_bert"])
def victim(request) -> Victim:
    folder = request.getfixturevalue(request.param)
    return load_victim(
        StudentConfig(model=str(folder), max_length=24), ("negative", "positive"), fresh_head_seed=0
    )


class Gradients(TrainerCallback):
    """Keeps the gradients of every update before the optimizer sees them."""

    def __init__(self) -> None:
        self.updates: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
        self.updates.append(
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        )


def first_gradients(victim, model, rows, folder, distill, **training):
    settings = TrainingConfig(epochs=1, warmup_ratio=0.0, **training)
    arguments = training_arguments(settings, folder, keep="last")
    arguments.max_grad_norm = 0.0  # clipping would hide a wrong scale, as Adam does
    gradients = Gradients()
    stage_trainer(victim, model, rows, arguments, distill, callbacks=[gradients]).train()
    return gradients.updates


@pytest.mark.parametrize("way", ["w2s", "w2s without a teacher", "all parameters"])
@pytest.mark.parametrize(
    "cut",
    [
        {"batch_size": 8, "gradient_accumulation": 4},
        {"batch_size": ROWS, "gradient_checkpointing": True},
    ],
    ids=["accumulation", "checkpointing"],
)
def test_a_batch_in_parts_gives_the_same_update(tiny_llama, data, targets, tmp_path, way, cut):
    def gradients(**training):
        victim = load_victim(
            StudentConfig(model=str(tiny_llama), max_length=24),
            ("negative", "positive"),
            fresh_head_seed=0,
        )
        torch.manual_seed(0)
        whole = way == "all parameters"
        model = victim.model if whole else attach_adapter(victim.model, ADAPTER)
        rows = victim.task.rows(data.train)
        if way == "w2s":
            rows = targets.columns(rows)
        distill = DISTILL if way == "w2s" else None
        (update,) = first_gradients(victim, model, rows, tmp_path, distill, **training)
        return update

    whole, parts = gradients(batch_size=ROWS), gradients(**cut)
    assert whole.keys() == parts.keys()
    assert max(gradient.abs().max() for gradient in whole.values()) > 1e-3
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-3, atol=1e-6)


def train(victim, data, targets, folder, *, distill=DISTILL, **training) -> Victim:
    settings = {"epochs": 5, "batch_size": 8, "learning_rate": 1e-3} | training
    return train_student(
        victim,
        lessons(data),
        targets,
        distill=distill,
        adapter=ADAPTER,
        training=TrainingConfig(**settings),
        folder=folder,
    )


@pytest.mark.parametrize("alignment", ["paper", "release"])
def test_the_parts_are_logged_and_add_up(victim, data, targets, tmp_path, alignment):
    distill = DISTILL.model_copy(update={"alignment": alignment})
    history = train(victim, data, targets, tmp_path, distill=distill, learning_rate=1e-2).history
    points = [point for point in history if "loss" in point]
    assert [point["step"] for point in points] == [10, 20]
    for point in points:
        assert min(point["ce"], point["kd"], point["fa"]) > 0
        expected = point["ce"] + 0.7 * point["kd"] + 3.0 * point["fa"]
        assert point["loss"] == pytest.approx(expected, rel=1e-3)
    # So each point is of its own ten steps, as the Trainer's loss is.
    if alignment == "paper":  # the release's target is another text in every batch
        assert points[1]["loss"] < 0.98 * points[0]["loss"]
    assert len([point for point in history if "eval_accuracy" in point]) == 5


def test_without_a_teacher_there_is_the_cross_entropy_alone(victim, data, tmp_path):
    history = train(victim, data, None, tmp_path).history
    points = [point for point in history if "loss" in point]
    assert points
    assert all(not {"ce", "kd", "fa"} & point.keys() for point in points)


def test_half_precision_trains(tiny_llama, data, targets, tmp_path):
    config = StudentConfig(model=str(tiny_llama), max_length=24, dtype="bfloat16")
    student = train(
        load_victim(config, ("negative", "positive"), fresh_head_seed=0), data, targets, tmp_path
    )
    points = [point for point in student.history if "loss" in point]
    assert points[1]["fa"] < points[0]["fa"]


def test_training_moves_the_adapter_only(victim, data, targets, tmp_path):
    before = {name: value.clone() for name, value in victim.model.state_dict().items()}
    student = train(victim, data, targets, tmp_path)
    after = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in student.model.state_dict().items()
    }
    kept = [name for name in before if name in after]
    assert len(kept) > 10
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert any("lora_B" in name and value.abs().max() > 0 for name, value in after.items())
