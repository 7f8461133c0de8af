"""Fine-tunes all parameters of a teacher on clean data, and reuses a stored one that matches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import nn
from transformers import set_seed

from w2sdefense.config import TeacherConfig, TrainingConfig
from w2sdefense.data.types import Dataset, fingerprint
from w2sdefense.distill.sharding import refuse_sharding
from w2sdefense.distill.teacher import (
    LabelTeacher,
    Teacher,
    TokenTeacher,
    load_teacher,
    open_token_teacher,
)
from w2sdefense.errors import ConfigError
from w2sdefense.io import read_json, readable, write_json
from w2sdefense.models.load import load_backbone
from w2sdefense.models.tokenizer import takes_positions
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.tasks.base import IGNORED, Collator, Output, Task, model_inputs
from w2sdefense.tasks.classification import Classification
from w2sdefense.tasks.generation import AnswerPlaces, Generation
from w2sdefense.training.fit import fit, remove_checkpoints
from w2sdefense.training.trainer import Batch, Forward, StepProgress, this_process
from w2sdefense.victim import Victim

T = TypeVar("T", bound=Teacher)


class TeacherJob(Protocol[T]):
    """How to make the teacher of one student.

    Attributes:
        config: The model, and how to optimize it.
        data: Clean data; `train` is trained on, `validation` chooses the epoch.
    """

    config: TeacherConfig
    data: Dataset

    def key(self) -> dict[str, Any]:
        """Everything that affects the result, as JSON values."""
        ...

    def open(self) -> tuple[T, Task]:
        """The teacher before it is fine-tuned, and the task with its tokenizer."""
        ...

    def optimizer(self, teacher: T, training: TrainingConfig) -> torch.optim.Optimizer | None:
        """The optimizer; None means AdamW with one learning rate."""
        ...

    def forward(self) -> Forward:
        """The forward pass in training."""
        ...


class LabelTeacherJob:
    """Job for a label teacher, which depends only on the student's width.

    Args:
        config: The model, and how to optimize it.
        data: Clean data.
        width: The student's width d_s.
        relu: See `LabelTeacher`.
    """

    def __init__(
        self, config: TeacherConfig, data: Dataset, width: int, *, relu: bool = False
    ) -> None:
        self.config = config
        self.data = data
        self.width = width
        self.relu = relu

    def key(self) -> dict[str, Any]:
        """See `TeacherJob`."""
        return {**_data_key(self), "width": self.width, "relu": self.relu}

    def open(self) -> tuple[LabelTeacher, Task]:
        """See `TeacherJob`."""
        config, names = self.config, self.data.label_names
        backbone, tokenizer = load_backbone(config.model)
        labels, length = len(names), config.max_length
        teacher = LabelTeacher(backbone, tokenizer, self.width, labels, length, self.relu)
        return teacher, Classification(teacher.tokenizer, names, config.max_length)

    def optimizer(self, teacher: LabelTeacher, training: TrainingConfig) -> torch.optim.Optimizer:
        """AdamW with a separate learning rate for the new layers, which start from random."""
        fresh = [*teacher.g.parameters(), *teacher.classifier.parameters()]
        return torch.optim.AdamW(
            [
                {"params": list(teacher.backbone.parameters()), "lr": self.config.learning_rate},
                {"params": fresh, "lr": self.config.head_learning_rate},
            ],
            weight_decay=training.weight_decay,
        )

    def forward(self) -> Forward:
        """See `TeacherJob`."""

        def read(teacher: nn.Module, batch: Batch) -> Output:
            said = teacher(**model_inputs(batch))
            return Output(said.logits.float(), said.features, batch["labels"], said.features)

        return read


class TokenTeacherJob:
    """Job for a token teacher, which reads the student's prompt and tokens.

    Args:
        config: The model, and how to optimize it; `max_length` and `head_learning_rate` apply to
            classification only and are ignored.
        data: Clean data.
        student: The student.
        task: The student's task.
    """

    def __init__(
        self, config: TeacherConfig, data: Dataset, student: Victim, task: Generation
    ) -> None:
        self.config = config
        self.data = data
        self._student = student
        self._task = task

    def key(self) -> dict[str, Any]:
        """See `TeacherJob`."""
        task = self._task
        return {
            **_data_key(self),
            "prompt": [*task.before, IGNORED, *task.after],
            "lengths": [task.max_length, task.answer_tokens],
            "student": weights_fingerprint(self._student.output_layer),
        }

    def open(self) -> tuple[TokenTeacher, Task]:
        """See `TeacherJob`."""
        tokenizer, layer = self._task.tokenizer, self._student.output_layer
        # Typed as Any: `Generation` lacks the scoring methods of `Task`, which subclasses add.
        task: Any = self._task
        return open_token_teacher(self.config.model, tokenizer, layer), task

    def optimizer(self, teacher: TokenTeacher, training: TrainingConfig) -> None:
        """Default optimizer with one learning rate, because `g` is initialized well."""

    def forward(self) -> Forward:
        """See `TeacherJob`."""

        def read(teacher: nn.Module, batch: Batch) -> Output:
            places = AnswerPlaces.of(batch["labels"])
            said = teacher(**model_inputs(batch), logits_to_keep=places.keep + 1)
            features = places.pick(said.features)
            return Output(places.pick(said.logits), features, places.labels, said.features)

        return read


def _data_key(job: LabelTeacherJob | TokenTeacherJob) -> dict[str, Any]:
    return {
        "config": job.config.model_dump(),
        "train": fingerprint(job.data.train),
        "validation": fingerprint(job.data.validation),
    }


def teacher_job(
    config: TeacherConfig, data: Dataset, student: Victim, *, relu: bool = False
) -> TeacherJob[Any]:
    """The job that makes the teacher of a student.

    Raises:
        ConfigError: `relu` (alignment of the authors' script) is set, but answers are texts.
    """
    if not isinstance(student.task, Generation):
        return LabelTeacherJob(config, data, student.width, relu=relu)
    if relu:
        raise ConfigError("--alignment release is for classifiers only.", "Omit --alignment.")
    return TokenTeacherJob(config, data, student, student.task)


def fit_teacher(
    job: TeacherJob[T], folder: Path, *, resume: bool = False, progress: StepProgress | None = None
) -> T:
    """Fine-tune all parameters of a teacher; keeps the epoch with the lowest validation loss.

    Args:
        job: How to make the teacher.
        folder: Where checkpoints go.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The teacher in evaluation mode.

    Raises:
        ConfigError: Models are sharded (FSDP, DeepSpeed).
    """
    refuse_sharding("The training of a teacher")
    config = job.config
    set_seed(config.seed)
    teacher, task = job.open()
    training = TrainingConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    fit(
        teacher,
        Collator(task.tokenizer, takes_positions(teacher.backbone)),
        job.forward(),
        task.rows(job.data.train),
        task.rows(job.data.validation),
        training=training,
        folder=folder,
        optimizer=job.optimizer(teacher.train(), training),
        resume=resume,
        progress=progress,
    )
    return teacher


def fit_or_load_teacher(
    job: TeacherJob[T],
    folder: Path,
    *,
    run_folder: Path | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> T:
    """Open the teacher in a folder if its settings and data match; otherwise fit and save one.

    Args:
        job: How to make the teacher.
        folder: Where the teacher is stored; checkpoints go there, too.
        run_folder: Folder of the calling run. A teacher inside it belongs to the run, so one that
            was made with other settings is replaced.
        resume: Whether to continue from checkpoints in the folder that have the same key.
        progress: Called after every step with (step, steps, losses).

    Raises:
        ConfigError: The folder is outside the run's and holds a teacher of other settings; or a
            teacher must be trained, and models are sharded (FSDP, DeepSpeed).
    """
    state = this_process()
    made_from, started = folder / "made_from.json", folder / "settings.json"
    key, kept = job.key(), readable(lambda: read_json(made_from))
    own = run_folder is not None and folder.is_relative_to(run_folder)
    if kept is not None and kept != key and not own:
        _refuse_other(folder, kept, key)
    resume = resume and readable(lambda: read_json(started)) == key
    # No process may write before all have read.
    state.wait_for_everyone()
    if kept == key:
        found: Any = load_teacher(folder)
        return cast(T, found)
    if state.is_main_process:
        # A stale key next to new weights would describe them wrongly.
        made_from.unlink(missing_ok=True)
        write_json(started, key)
    made = fit_teacher(job, folder, resume=resume, progress=progress)
    if state.is_main_process:
        made.save(folder)
        write_json(made_from, key)
        remove_checkpoints(folder)
    state.wait_for_everyone()
    return made


def _refuse_other(folder: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise an error that names the differences: a shared teacher must not be overwritten."""
    names = {
        "train": "training rows",
        "validation": "validation rows",
        "width": "width of the student",
        "relu": "alignment",
    }
    rest = wanted.keys() - {"config"}
    differs = [names.get(name, name) for name in sorted(rest) if made.get(name) != wanted[name]]
    config = made.get("config", {})
    differs += [
        f"{name} {config.get(name)!r} instead of {value!r}"
        for name, value in wanted["config"].items()
        if config.get(name) != value
    ]
    raise ConfigError(
        f"{folder} holds a teacher with other settings ({', '.join(differs)}).",
        "Use the teacher and data settings that it was trained with, or another folder.",
    )
