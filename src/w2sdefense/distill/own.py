"""W2SDefense as a `transformers.Trainer`, for custom datasets and teachers.

`W2SDefense.fit` does more: decoys, candidate triggers, and checkpoints that a rerun resumes from.
Here the caller supplies rows, teacher, training arguments, callbacks, optimizers and trackers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from peft import PeftModel
from transformers import TrainingArguments

from w2sdefense.config import AdapterConfig, DistillConfig
from w2sdefense.data.types import Example, texts_of
from w2sdefense.distill.losses import TeacherOutput
from w2sdefense.distill.targets import answer_texts, said_in, w2s_objective, with_said
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.errors import DataError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.tasks.base import Row
from w2sdefense.training.fit import task_collator, task_forward
from w2sdefense.training.trainer import StageTrainer
from w2sdefense.victim import Victim

AskTeacher = Callable[[Sequence[str]], TeacherOutput]
"""Answers texts: logits (N, C) in the student's order of labels, features (N, d_s)."""


class W2STrainer(StageTrainer):
    """Trains a classifier with the loss of W2SDefense: alpha * CE + beta * KD + gamma * FA.

    Args:
        victim: The student, as `load_victim` opens it. The trainer changes its model in place.
        teacher: A fitted teacher of the student's width, or any function from texts to
            `TeacherOutput`; with `gamma=0` its features are not used. It answers each dataset once.
        train_dataset: Rows with `text` and `label` (an index): dicts, or a `datasets.Dataset`.
        eval_dataset: The same, for `eval_strategy`.
        args: Arguments of the training.
        distill: Weights, temperature, alignment and feature scale.
        adapter: The adapter, if the model has none.
        **trainer: Other arguments of `transformers.Trainer`, such as `callbacks`.

    Raises:
        DataError: The teacher does not return one row per text.
    """

    def __init__(
        self,
        victim: Victim,
        teacher: LabelTeacher | AskTeacher,
        train_dataset: Iterable[Mapping[str, Any]],
        eval_dataset: Iterable[Mapping[str, Any]] | None = None,
        *,
        args: TrainingArguments,
        distill: DistillConfig | None = None,
        adapter: AdapterConfig | None = None,
        **trainer: Any,
    ) -> None:
        self._task = task = victim.task
        model = victim.model
        if not isinstance(model, PeftModel):
            model = attach_adapter(model, adapter or AdapterConfig())
        args = copy.copy(args)
        # The Trainer would remove the teacher's columns, which are no arguments of the model.
        args.remove_unused_columns, args.label_names = False, ["labels"]
        super().__init__(
            forward=task_forward(task, model),
            loss=w2s_objective(said_in, distill or DistillConfig()),
            model=model.train(),
            args=args,
            train_dataset=self._rows(teacher, train_dataset),
            eval_dataset=None if eval_dataset is None else self._rows(teacher, eval_dataset),
            data_collator=task_collator(task, model),
            **trainer,
        )

    @property
    def student(self) -> Victim:
        """The student in its current state, for `evaluate` and saving."""
        return Victim(self.model, self._task)

    def _rows(
        self, teacher: LabelTeacher | AskTeacher, dataset: Iterable[Mapping[str, Any]]
    ) -> list[Row]:
        examples = [
            Example(str(place), str(row["text"]), int(row["label"]))
            for place, row in enumerate(dataset)
        ]
        texts = texts_of(examples)
        if isinstance(teacher, LabelTeacher):
            said = answer_texts(teacher, texts)
        else:
            said = teacher(texts)
        if not len(said.logits) == len(said.features) == len(texts):
            raise DataError(
                f"The teacher returned {len(said.logits)} rows of logits and "
                f"{len(said.features)} rows of features for {len(texts)} texts.",
                "Return one row of each for every text; if gamma is 0, features may be zeros.",
            )
        return with_said(self._task.rows(examples), said)
