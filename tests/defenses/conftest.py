"""A small classifier that knows its reviews, and the reviews."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForSequenceClassification

from making import reviews
from tiny import LLAMA, save_model
from w2sdefense.config import StudentConfig, TeacherConfig, TrainingConfig
from w2sdefense.data import Dataset
from w2sdefense.defenses import DefenseKit
from w2sdefense.victim import Victim, fine_tune, load_victim


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The defender's data."""
    folder = tmp_path_factory.mktemp("clean") / "reviews"
    return reviews(folder, train=240, validation=60, test=40)


@pytest.fixture(scope="session")
def trained(made_once, clean: Dataset) -> Path:
    """Folder of a classifier that answers the reviews correctly."""
    return made_once("trained", lambda folder: _train(folder, LLAMA, clean)) / "model"


@pytest.fixture(scope="session")
def wide(made_once, clean: Dataset) -> Path:
    """The same, wide enough for four bits, which come in blocks of 64."""
    config = LlamaConfig(**LLAMA.to_dict() | {"hidden_size": 64, "head_dim": 16})
    return made_once("wide", lambda folder: _train(folder, config, clean)) / "model"


def _train(folder: Path, shape: LlamaConfig, clean: Dataset) -> None:
    """A tiny Llama, fine-tuned on the reviews."""
    save_model(folder / "fresh", LlamaForSequenceClassification, shape)
    config = StudentConfig(model=str(folder / "fresh"), max_length=32)
    victim = load_victim(config, clean.label_names)
    fine_tune(victim, clean.train, TrainingConfig(epochs=4, learning_rate=3e-3), folder)
    victim.save(folder / "model")


@pytest.fixture
def victim(trained: Path) -> Victim:
    return load_victim(StudentConfig(model=str(trained), max_length=32))


@pytest.fixture
def kit(clean: Dataset, tmp_path: Path) -> DefenseKit:
    return DefenseKit(clean, tmp_path / "run", TeacherConfig(), tmp_path / "teacher")


@pytest.fixture
def accuracy(clean: Dataset) -> Callable[..., float]:
    """Share of the validation texts that a predictor answers correctly."""

    def measure(predictor) -> float:
        answers = predictor.predict([example.text for example in clean.validation])
        pairs = zip(answers, clean.validation, strict=True)
        return sum(answer.answer == example.label for answer, example in pairs) / len(answers)

    return measure
