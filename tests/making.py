"""Victims, targets and trainers for tests that look inside a stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tiny import save_reviews
from w2sdefense.config import DataConfig, DistillConfig
from w2sdefense.data import Dataset, load_dataset
from w2sdefense.distill.losses import TeacherOutput
from w2sdefense.distill.student import Lesson, Lessons
from w2sdefense.distill.targets import FEATURE, LOGITS, CachedTargets, w2s_objective
from w2sdefense.tasks.base import Row
from w2sdefense.tasks.classification import Classification
from w2sdefense.training.fit import task_collator, task_forward
from w2sdefense.training.trainer import StageTrainer, cross_entropy
from w2sdefense.victim import Victim

NAMES = ("negative", "positive")


def reviews(folder: Path, **sizes: int) -> Dataset:
    """The dataset of `save_reviews`."""
    return load_dataset(DataConfig(dataset=str(save_reviews(folder, **sizes))))


def as_victim(
    model: Any, tokenizer: Any, names: tuple[str, ...] = NAMES, max_length: int = 128
) -> Victim:
    """A classifier that is open already."""
    return Victim(model, Classification(tokenizer, names, max_length))


class GivenTargets(CachedTargets):
    """Random teacher output instead of a teacher's; rows get it in their order."""

    def __init__(self, rows: int, width: int = 32, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.said = TeacherOutput(
            torch.randn(rows, 2, generator=generator), torch.randn(rows, width, generator=generator)
        )

    def columns(self, rows: Sequence[Row], asked: Any = ()) -> list[Row]:
        said = zip(rows, self.said.logits, self.said.features, strict=False)
        return [{**row, LOGITS: logits, FEATURE: feature} for row, logits, feature in said]


def lessons(data: Dataset) -> Lessons:
    """A dataset as it is."""
    return Lessons(Lesson.plain(data.train), Lesson.plain(data.validation))


def stage_trainer(
    victim: Victim,
    model: Any,
    rows: Sequence[Row],
    arguments: Any,
    distill: DistillConfig | None = None,
    **options: Any,
) -> StageTrainer:
    """The trainer that `fit` makes, with callbacks of the test; a `distill` needs its columns."""
    targets = GivenTargets(1)
    return StageTrainer(
        forward=task_forward(victim.task, model),
        loss=cross_entropy if distill is None else w2s_objective(targets.output, distill),
        model=model.train(),
        args=arguments,
        train_dataset=list(rows),
        data_collator=task_collator(victim.task, model),
        **options,
    )
