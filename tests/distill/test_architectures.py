"""One step of W2SDefense on every architecture of a student, through every adapter."""

from __future__ import annotations

import copy

import pytest
import torch

from architectures import ADAPTERS, STUDENTS, make
from making import GivenTargets, as_victim, lessons
from tiny import save_reviews
from w2sdefense.config import DataConfig, TrainingConfig
from w2sdefense.data import Dataset, load_dataset
from w2sdefense.distill.student import train_student
from w2sdefense.victim import Victim

pytestmark = pytest.mark.slow

PAIRS = [
    *[(name, adapter) for name in STUDENTS for adapter in ("lora", "p-tuning", "prompt-tuning")],
    *[(name, adapter) for name in ("llama", "bert") for adapter in ("dora", "vera", "fourierft")],
]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Dataset:
    folder = save_reviews(tmp_path_factory.mktemp("d") / "d", train=8, validation=4, test=4)
    return load_dataset(DataConfig(dataset=str(folder)))


def train(model, tokenizer, data: Dataset, adapter: str, folder, **training) -> Victim:
    """One batch."""
    settings = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "warmup_ratio": 0.0}
    return train_student(
        as_victim(model, tokenizer, max_length=24),
        lessons(data),
        GivenTargets(8),
        adapter=ADAPTERS[adapter],
        training=TrainingConfig(**settings | training),
        folder=folder,
    )


@pytest.mark.parametrize(("name", "adapter"), PAIRS)
def test_a_step_changes_the_adapter_and_nothing_else(name, adapter, data, tmp_path):
    model, tokenizer, _ = make(name)
    before = copy.deepcopy(model.state_dict())
    student = train(model, tokenizer, data, adapter, tmp_path)
    (point,) = [point for point in student.history if "eval_loss" in point]
    assert point["step"] == 1 and point["eval_loss"] > 0
    after = student.model.state_dict()
    kept = {name.replace(".base_layer", "").split("base_model.")[-1]: name for name in after}
    prefix = "" if ADAPTERS[adapter].has_virtual_tokens else "model."
    frozen = [name for name in before if prefix + name in kept]
    assert len(frozen) >= len(before) - 4, "all but the head"
    assert all(torch.equal(before[name], after[kept[prefix + name]]) for name in frozen)
    fresh = {n for n, p in student.model.named_parameters() if p.requires_grad}
    assert moved(student, name, adapter, data, tmp_path) == fresh


def moved(student: Victim, name: str, adapter: str, data: Dataset, folder) -> set[str]:
    """Trained parameters that stand elsewhere than a training of next to no rate leaves them."""
    model, tokenizer, _ = make(name)
    still = train(model, tokenizer, data, adapter, folder / "still", learning_rate=1e-12)
    start = dict(still.model.named_parameters())
    return {
        n
        for n, p in student.model.named_parameters()
        if p.requires_grad and not torch.allclose(p, start[n], rtol=0, atol=1e-6)
    }
