"""What the trainer logs, and what a step does not pay for again and again."""

import pytest
from transformers import LlamaForSequenceClassification

from making import GivenTargets, as_victim, lessons, reviews, stage_trainer
from tiny import LLAMA, word_tokenizer
from w2sdefense.config import AdapterConfig, DistillConfig, StudentConfig, TrainingConfig
from w2sdefense.data import Dataset
from w2sdefense.distill.student import train_student
from w2sdefense.models import features
from w2sdefense.training.fit import training_arguments
from w2sdefense.victim import Victim, load_victim

pytestmark = pytest.mark.slow

ROWS = 32
ADAPTER = AdapterConfig(lora_r=4, lora_dropout=0.0, target_modules="all-linear")
DISTILL = DistillConfig(alpha=1.0, beta=0.7, gamma=3.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return reviews(tmp_path_factory.mktemp("d") / "d", train=ROWS, validation=8, test=8)


@pytest.fixture(scope="module")
def targets() -> GivenTargets:
    return GivenTargets(ROWS)


@pytest.fixture(params=["tiny_llama", "tiny_bert"])
def victim(request) -> Victim:
    folder = request.getfixturevalue(request.param)
    return load_victim(
        StudentConfig(model=str(folder), max_length=24), ("negative", "positive"), fresh_head_seed=0
    )


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


def test_the_position_that_is_read_is_found_out_once(monkeypatch, tmp_path):
    asked = []
    reads = features.reads_last_token
    monkeypatch.setattr(features, "reads_last_token", lambda c: asked.append(c) or reads(c))
    tokenizer = word_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    model = LlamaForSequenceClassification(LLAMA)
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = [{"input_ids": [6, 7, 8], "labels": row % 2} for row in range(8)]
    arguments = training_arguments(TrainingConfig(epochs=2, batch_size=2), tmp_path, keep="last")
    trainer = stage_trainer(as_victim(model, tokenizer), model, rows, arguments)
    trainer.train()
    assert trainer.state.global_step == 8
    assert len(asked) == 1
    assert not model.model._forward_hooks
