"""Supplies the teacher's output for the student's training texts to the loss.

For label answers it is computed once and cached under a hash of the teacher's weights and the
texts: training the student does not run the teacher again, and the teacher can leave memory. Text
answers have too many features to store, so their teacher runs on every batch of the student. The
teacher may read other texts than the student: decoys are in the student's texts only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from w2sdefense.config import DistillConfig
from w2sdefense.data.types import Example, fingerprint, labels_of, texts_of
from w2sdefense.distill.losses import TeacherOutput, w2s_loss
from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
from w2sdefense.io import atomic_path, readable
from w2sdefense.models.load import to_gpu
from w2sdefense.models.tokenizer import encode, length_batches, pad, positions_of, takes_positions
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.tasks.base import Output, Row, Task
from w2sdefense.tasks.generation import AnswerPlaces
from w2sdefense.training.trainer import Batch, Loss, this_process

LOGITS, FEATURE = "teacher_logits", "teacher_feature"
"""Columns of a row with the teacher's output for it, (C,) and (d_s,)."""


class Targets(Protocol):
    """Source of the teacher's output for the loss."""

    def columns(self, rows: Sequence[Row], asked: Sequence[Example]) -> list[Row]:
        """The student's rows plus the columns that `output` needs.

        Args:
            rows: Tokenized training rows.
            asked: What the teacher reads for each row.
        """

    def output(self, batch: Batch) -> TeacherOutput:
        """The teacher's output for a batch of these rows."""


def w2s_objective(said: Callable[[Batch], TeacherOutput], config: DistillConfig) -> Loss:
    """The W2SDefense loss as a `Loss`; `said` returns the teacher's output for a batch."""

    def loss(student: Output, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        parts = w2s_loss(student, said(batch), config)
        return parts.total, {"ce": parts.ce, "kd": parts.kd, "fa": parts.fa}

    return loss


def with_said(rows: Sequence[Row], said: TeacherOutput) -> list[Row]:
    """Add the teacher's output to every row; `said_in` reads it back from a batch."""
    return [
        {**row, LOGITS: logits, FEATURE: feature}
        for row, logits, feature in zip(rows, said.logits, said.features, strict=True)
    ]


def said_in(batch: Batch) -> TeacherOutput:
    """The teacher's output that `with_said` put into the rows of a batch."""
    return TeacherOutput(batch[LOGITS], batch[FEATURE])


class CachedTargets:
    """The output of a label teacher, computed once; the teacher may leave memory afterwards.

    Args:
        teacher: A fitted teacher.
        asked: What the teacher reads, split by split.
        cache: Folder for its output.
    """

    def __init__(
        self, teacher: LabelTeacher, asked: Sequence[Sequence[Example]], cache: Path
    ) -> None:
        self._said = {fingerprint(split): teacher_targets(teacher, split, cache) for split in asked}

    def columns(self, rows: Sequence[Row], asked: Sequence[Example]) -> list[Row]:
        """See `Targets`."""
        return with_said(rows, self.said(asked))

    def output(self, batch: Batch) -> TeacherOutput:
        """See `Targets`."""
        return said_in(batch)

    def said(self, asked: Sequence[Example]) -> TeacherOutput:
        """The teacher's output for one of the splits, in the order of its texts."""
        return self._said[fingerprint(asked)]


class LiveTargets:
    """The output of a token teacher, which runs on every batch of the student.

    Args:
        teacher: A fitted teacher of the student's width.
        task: The student's.
    """

    def __init__(self, teacher: TokenTeacher, task: Task) -> None:
        self._teacher = teacher.eval()
        self._task = task
        self._takes_positions = takes_positions(teacher.backbone)

    def columns(self, rows: Sequence[Row], asked: Sequence[Example]) -> list[Row]:
        """The rows with `clean_input_ids`: the teacher's prompt followed by the answer."""
        clean = [row["input_ids"] for row in self._task.rows(asked)]
        return [{**row, "clean_input_ids": ids} for row, ids in zip(rows, clean, strict=True)]

    @torch.no_grad()
    def output(self, batch: Batch) -> TeacherOutput:
        """See `Targets`."""
        # Both inputs end with the answer, so its positions counted from the end are the same.
        places = AnswerPlaces.of(batch["labels"])
        mask = batch["clean_attention_mask"]
        inputs = {"input_ids": batch["clean_input_ids"], "attention_mask": mask}
        if self._takes_positions:
            inputs["position_ids"] = positions_of(mask)
        teacher = self._teacher.to(mask.device)
        said = teacher(**inputs, logits_to_keep=places.keep + 1)
        return TeacherOutput(places.pick(said.logits), places.pick(said.features))


def targets_of(
    teacher: LabelTeacher | TokenTeacher,
    task: Task,
    asked: Sequence[Sequence[Example]],
    cache: Path,
) -> Targets:
    """Make the source of a teacher's output for a student's loss.

    Args:
        teacher: A fitted teacher of the student's width.
        task: The student's task.
        asked: What the teacher reads, split by split.
        cache: Folder for output that is computed once.
    """
    if isinstance(teacher, LabelTeacher):
        return CachedTargets(teacher, asked, cache)
    return LiveTargets(teacher, task)


def teacher_targets(
    teacher: LabelTeacher, examples: Sequence[Example], cache: Path
) -> TeacherOutput:
    """The teacher's output for every example, in order, from the cache if possible.

    Args:
        teacher: A fitted teacher.
        examples: What the teacher reads.
        cache: Folder for the cached targets.
    """
    # The output also depends on where texts are cut.
    weights = f"{weights_fingerprint(teacher)}-{teacher.max_length}"
    path = cache / f"{weights}-{fingerprint(examples)}.safetensors"
    # Of several processes, the main one runs the teacher and the others read the file.
    with this_process().main_process_first():
        if (said := readable(lambda: TeacherOutput(**load_file(path)))) is None:
            said = answer_texts(teacher, texts_of(examples))
            with atomic_path(path) as temporary:
                save_file({"logits": said.logits, "features": said.features}, temporary)
    return said


def doubt_about(targets: TeacherOutput, examples: Sequence[Example]) -> str | None:
    """Check whether a teacher is clearly better than always giving the most frequent answer.

    A teacher that is not cannot tell a trigger from text, and its student unlearns the task.

    Args:
        targets: The teacher's output for `examples`, with or without pieces in their texts.
        examples: Clean labelled texts that the teacher was not trained on.

    Returns:
        A warning for the user; None if the teacher is right on all texts, or on two standard errors
        more of them than the constant answer.
    """
    labels = torch.tensor(labels_of(examples))
    right = int((targets.logits.argmax(-1) == labels).sum())
    most, total = int(labels.bincount().max()), len(labels)
    if right >= min(total, most + 2 * math.sqrt(most * (total - most) / total)):
        return None
    return (
        f"the teacher is right on {right} of {total} texts that it was not trained on, where one "
        f"answer to all is right on {most}: do not trust what it taught; give it more rows or "
        "epochs (--teacher-epochs), or name another one (--teacher-model)"
    )


@torch.inference_mode()
def answer_texts(teacher: LabelTeacher, texts: Sequence[str]) -> TeacherOutput:
    """Compute the teacher's output for every text, in order, without the cache.

    Args:
        teacher: A fitted teacher.
        texts: Raw texts.
    """
    tokens, _ = encode(teacher.tokenizer, texts, teacher.max_length)
    logits = torch.empty(len(texts), teacher.classifier.out_features)
    features = torch.empty(len(texts), teacher.g.out_features)
    positions = takes_positions(teacher.backbone)
    device = to_gpu(teacher).g.weight.device
    teacher.eval()
    for rows in length_batches([len(ids) for ids in tokens], batch_tokens=4096):
        batch = pad([tokens[row] for row in rows], teacher.tokenizer, positions=positions)
        output = teacher(**{name: value.to(device) for name, value in batch.items()})
        logits[rows] = output.logits.float().cpu()
        features[rows] = output.features.float().cpu()
    return TeacherOutput(logits, features)
