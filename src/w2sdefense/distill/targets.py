"""What the teacher says of every text, computed once and kept.

The student's epochs never run the teacher again: its logits and features are read from here by row,
and the teacher can leave memory. The file is found again under a hash of the teacher's weights and
of the texts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from w2sdefense.data.types import Example, fingerprint, texts_of
from w2sdefense.distill.teacher import Teacher
from w2sdefense.io import atomic_path
from w2sdefense.models.load import to_gpu
from w2sdefense.models.padding import pad, takes_positions
from w2sdefense.models.predictor import length_batches
from w2sdefense.training.trainer import this_process


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's output for a set of examples, row by row.

    Attributes:
        logits: (N, C) in float32.
        features: h_t, (N, d_s) in float32.
    """

    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class SplitTargets:
    """The teacher's output for the rows that train the student and those that choose the epoch."""

    train: TeacherTargets
    validation: TeacherTargets


def teacher_targets(
    teacher: Teacher,
    examples: Sequence[Example],
    cache: Path,
    progress: Callable[[int], None] | None = None,
) -> TeacherTargets:
    """The teacher's output for every example, from the cache if it is there.

    Args:
        teacher: A fitted teacher.
        examples: The student's training examples.
        cache: Folder for the cached targets.
        progress: Called after every batch with the number of texts in it.

    Returns:
        Targets in the order of `examples`.
    """
    # The same weights that cut texts elsewhere say other things.
    weights = f"{weights_fingerprint(teacher)}-{teacher.max_length}"
    path = cache / f"{weights}-{fingerprint(examples)}.safetensors"
    # Of several processes the first one asks the teacher, and the others read.
    with this_process().main_process_first():
        if not path.is_file():
            targets = answer_texts(teacher, texts_of(examples), progress)
            with atomic_path(path) as temporary:
                save_file({"logits": targets.logits, "features": targets.features}, temporary)
    return TeacherTargets(**load_file(path))


def doubt_about(targets: TeacherTargets, examples: Sequence[Example]) -> str | None:
    """What speaks against a teacher: answers that one fixed answer to everything nearly equals.

    Such a teacher cannot tell a trigger from text, and its student unlearns the task.

    Args:
        targets: The teacher's output for `examples`, with or without pieces in their texts.
        examples: Clean labelled texts that it was not trained on.

    Returns:
        A sentence for people; None if it is right clearly more often (by two standard errors).
    """
    labels = torch.tensor([example.label for example in examples])
    right = int((targets.logits.argmax(-1) == labels).sum())
    most, total = int(labels.bincount().max()), len(labels)
    if right >= min(total, most + 2 * math.sqrt(most * (total - most) / total)):
        return None
    return (
        f"the teacher is right on {right} of {total} texts that it was not trained on, where one "
        f"answer to all is right on {most}: do not trust what it taught; give it more rows or "
        "epochs (--teacher-epochs), or name another one (--teacher-model)"
    )


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A short hash of all weights, their names and types: equal weights, equal fingerprint."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]


@torch.inference_mode()
def answer_texts(
    teacher: Teacher, texts: Sequence[str], progress: Callable[[int], None] | None = None
) -> TeacherTargets:
    """The teacher's output for every text, computed anew.

    Args:
        teacher: A fitted teacher.
        texts: Raw texts.
        progress: Called after every batch with the number of texts in it.

    Returns:
        Targets in the order of `texts`.
    """
    tokens = teacher.tokenizer(
        list(texts), truncation=True, max_length=teacher.max_length, return_attention_mask=False
    )["input_ids"]
    logits = torch.empty(len(texts), teacher.classifier.out_features)
    features = torch.empty(len(texts), teacher.g.out_features)
    positions = takes_positions(teacher.backbone)
    device = to_gpu(teacher).g.weight.device
    teacher.eval()
    for rows in length_batches([len(ids) for ids in tokens], batch_tokens=4096):
        batch = pad([tokens[row] for row in rows], teacher.tokenizer, positions=positions)
        output = teacher(**{name: value.to(device) for name, value in batch.items()})
        logits[rows] = output.logits.float().cpu()
        features[rows] = output.hidden_states.float().cpu()
        if progress is not None:
            progress(len(rows))
    return TeacherTargets(logits, features)
