"""One step of W2SDefense on every architecture of a student, through every adapter."""

import pytest
import torch

from architectures import ADAPTERS, STUDENTS, make
from making import GivenTargets, as_victim, lessons, reviews
from w2sdefense.config import TrainingConfig
from w2sdefense.data import Dataset
from w2sdefense.distill.student import train_student
from w2sdefense.models.adapters import attach_adapter

pytestmark = pytest.mark.slow

PAIRS = [
    *[(name, adapter) for name in STUDENTS for adapter in ("lora", "p-tuning", "prompt-tuning")],
    *[(name, "dora") for name in ("llama", "bert")],
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    return reviews(tmp_path_factory.mktemp("d") / "d", train=8, validation=4, test=4)


@pytest.mark.parametrize(("name", "adapter"), PAIRS)
def test_a_step_changes_the_adapter_and_nothing_else(name, adapter, data, tmp_path, monkeypatch):
    start: dict[str, torch.Tensor] = {}

    def attach(model, config):
        wrapped = attach_adapter(model, config)
        start.update({n: p.detach().clone() for n, p in wrapped.named_parameters()})
        return wrapped

    monkeypatch.setattr("w2sdefense.distill.student.attach_adapter", attach)
    model, tokenizer, _ = make(name)
    student = train_student(
        as_victim(model, tokenizer, max_length=24),
        lessons(data),
        GivenTargets(8),
        adapter=ADAPTERS[adapter],
        training=TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-2, warmup_ratio=0.0),
        folder=tmp_path,
    )
    (point,) = [point for point in student.history if "eval_loss" in point]
    assert point["step"] == 1 and point["eval_loss"] > 0
    trained = {n for n, p in student.model.named_parameters() if p.requires_grad}
    after = dict(student.model.named_parameters())
    assert after.keys() == start.keys() and trained < after.keys()
    assert {n for n in after if not torch.equal(after[n], start[n])} == trained
