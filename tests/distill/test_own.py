"""W2SDefense with a dataset, a teacher and callbacks of one's own."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from tiny import NEGATIVE, POSITIVE, review
from w2sdefense import W2STrainer, load_victim
from w2sdefense.config import AdapterConfig, DistillConfig, StudentConfig
from w2sdefense.distill.losses import TeacherOutput
from w2sdefense.errors import DataError

pytestmark = pytest.mark.slow

ADAPTER = AdapterConfig(lora_r=8, lora_dropout=0.0, target_modules="all-linear")


@pytest.fixture
def victim(tiny_llama):
    config = StudentConfig(model=str(tiny_llama), max_length=24)
    return load_victim(config, ("negative", "positive"), fresh_head_seed=0)


def rows(count: int) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {"text": review(rng, (NEGATIVE, POSITIVE)[place % 2]), "label": place % 2}
        for place in range(count)
    ]


class Teacher:
    """Knows the words of sentiment; its features are nothing."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> TeacherOutput:
        self.asked += texts
        good = torch.tensor([any(word in POSITIVE for word in text.split()) for text in texts])
        logits = torch.stack([(~good).float(), good.float()], dim=1) * 6
        return TeacherOutput(logits, torch.zeros(len(texts), 32))


class Watch(TrainerCallback):
    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_log(self, args, state, control, logs=None, **rest):
        self.logged.append(dict(logs or {}))


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, **more
    )


def test_the_student_learns_from_the_teacher_alone(victim, tmp_path):
    train, teacher, watch = rows(160), Teacher(), Watch()
    wrong = [row | {"label": 1 - row["label"]} for row in train]
    trainer = W2STrainer(
        victim,
        teacher,
        wrong,  # a weight of 0 means that labels are not read
        args=arguments(
            tmp_path, num_train_epochs=12, learning_rate=5e-3, logging_steps=5, save_strategy="no"
        ),
        distill=DistillConfig(alpha=0.0, beta=1.0, gamma=0.0),
        adapter=ADAPTER,
        callbacks=[watch],
    )
    trainer.train()
    assert teacher.asked == [row["text"] for row in train], "asked once"
    said = trainer.student.predict([row["text"] for row in train])
    assert sum(p.answer == row["label"] for p, row in zip(said, train, strict=True)) > 150
    kd = [point["kd"] for point in watch.logged if "kd" in point]
    assert kd[-1] < kd[0] / 2


def test_a_teacher_that_skips_texts_is_refused(victim, tmp_path):
    def lazy(texts: Sequence[str]) -> TeacherOutput:
        return TeacherOutput(torch.zeros(1, 2), torch.zeros(1, 32))

    with pytest.raises(DataError, match="1 rows of features for 4 texts"):
        W2STrainer(victim, lazy, rows(4), args=arguments(tmp_path), adapter=ADAPTER)


def test_the_arguments_of_the_caller_stay_as_they_are(victim, tmp_path):
    args = arguments(tmp_path)
    trainer = W2STrainer(victim, Teacher(), rows(4), rows(2), args=args, adapter=ADAPTER)
    assert args.remove_unused_columns and not trainer.args.remove_unused_columns
    assert trainer.evaluate()["eval_loss"] > 0
