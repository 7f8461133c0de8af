"""The three ways of training that are timed against each other.

`w2s` and `lora` go through the library, as `distill/student.py` does: `W2STrainer`, its rows, its
collator, its adapter. Left out are the evaluation after every epoch and the checkpoints, which are
the same for both. `loop` is what one writes in an afternoon from the paper's equations: batches in
data order padded to their longest text, the teacher run on every batch, all hidden states kept, a
plain PEFT adapter. It is not made slow on purpose: it has no padding to the model's limit, no
gradient of the teacher, and the same optimizer settings and loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import get_linear_schedule_with_warmup, set_seed

from w2sdefense.config import AdapterConfig, DistillConfig, StudentConfig, TrainingConfig
from w2sdefense.data import Example
from w2sdefense.data.types import labels_of, texts_of
from w2sdefense.distill.targets import CachedTargets, w2s_objective
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.evaluation.provenance import peak_memory_mb
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.load import load_backbone
from w2sdefense.models.tokenizer import takes_positions
from w2sdefense.tasks.base import Collator, Row
from w2sdefense.training.fit import fit, task_forward
from w2sdefense.training.trainer import cross_entropy
from w2sdefense.victim import Victim, load_victim


@dataclass(frozen=True)
class Workload:
    """What all arms train on, and how.

    Attributes:
        examples: Labelled texts, in data order.
        label_names: Names of the labels.
        student: Student model.
        teacher: Teacher model; `g` and its classifier are random, which costs the same time.
        batch_size: Texts per step.
        max_length: Longest text in tokens.
        lora_r: LoRA rank, on all linear layers.
        lora_dropout: LoRA dropout.
        learning_rate: Peak learning rate.
    """

    examples: tuple[Example, ...]
    label_names: tuple[str, ...]
    student: str = "smollm2-135m"
    teacher: str = "minilm-l6"
    batch_size: int = 16
    max_length: int = 128
    lora_r: int = 64
    lora_dropout: float = 0.1
    learning_rate: float = 2e-4


@dataclass(frozen=True)
class Batch:
    """Sizes of a padded batch: tokens of every text, and of the longest."""

    lengths: tuple[int, ...]
    width: int


OnBatch = Callable[[Batch], Any]
"""Called with every batch that an epoch trains on."""


class Arm(Protocol):
    """One way of training.

    Attributes:
        model: The student with its adapter.
        one_off_seconds: What is done once before the first epoch, however many there are.
        lengths: Tokens of every text.
    """

    model: PeftModel
    one_off_seconds: float
    lengths: list[int]

    def epoch(self, seed: int, on_batch: OnBatch) -> None:
        """Train on every text once, from a new optimizer to the last step."""
        ...


@dataclass
class _SizedCollator:
    """The library's collator, which reports the sizes of its batches."""

    collator: Collator
    on_batch: OnBatch

    def __call__(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        batch = self.collator(rows)
        self.on_batch(_sizes(batch["attention_mask"]))
        return batch


class LibraryArm:
    """Training through `fit`: with a teacher's targets W2SDefense, without plain LoRA.

    Args:
        workload: What to train on.
        folder: For the cached targets; the Trainer writes nothing.
        teacher: Whether a teacher guides the student.
    """

    def __init__(self, workload: Workload, folder: Path, *, teacher: bool) -> None:
        self._workload, self._folder = workload, folder
        victim = _fresh_student(workload)
        self._task = victim.task
        adapter = AdapterConfig(
            lora_r=workload.lora_r, lora_dropout=workload.lora_dropout, target_modules="all-linear"
        )
        self.model = attach_adapter(victim.model, adapter).train()
        guide = _fresh_teacher(workload, victim.width) if teacher else None
        self._loss = cross_entropy
        start = time.perf_counter()
        self._rows = self._task.rows(workload.examples)
        if guide is not None:
            targets = CachedTargets(guide, [workload.examples], folder / "targets")
            self._rows = targets.columns(self._rows, workload.examples)
            self._loss = w2s_objective(targets.output, DistillConfig())
        self.one_off_seconds = time.perf_counter() - start
        self.lengths = [len(row["input_ids"]) for row in self._rows]

    def epoch(self, seed: int, on_batch: OnBatch) -> None:
        """One run of the Trainer over one epoch."""
        workload = self._workload
        settings = TrainingConfig(
            epochs=1,
            batch_size=workload.batch_size,
            learning_rate=workload.learning_rate,
            seed=seed,
        )
        collator = Collator(self._task.tokenizer, takes_positions(self.model))
        fit(
            self.model,
            _SizedCollator(collator, on_batch),
            task_forward(self._task, self.model),
            self._rows,
            None,
            training=settings,
            folder=self._folder,
            loss=self._loss,
        )
        self.model.train()


class LoopArm:
    """A straightforward loop: teacher online, data order, all hidden states, plain PEFT.

    Args:
        workload: What to train on.
    """

    one_off_seconds = 0.0

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._labels = torch.tensor(labels_of(workload.examples))
        self._texts = texts_of(workload.examples)
        victim = _fresh_student(workload)
        self._tokenizer = victim.tokenizer
        self.teacher = _fresh_teacher(workload, victim.width)
        config = LoraConfig(
            task_type="SEQ_CLS",
            r=workload.lora_r,
            lora_alpha=workload.lora_r,
            lora_dropout=workload.lora_dropout,
            target_modules="all-linear",
        )
        self.model = get_peft_model(victim.model, config).train()
        self.lengths = [len(row["input_ids"]) for row in victim.task.rows(workload.examples)]

    def epoch(self, seed: int, on_batch: OnBatch) -> None:
        """Every batch in data order."""
        set_seed(seed)
        size = self._workload.batch_size
        starts = range(0, len(self._texts), size)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self._workload.learning_rate)
        schedule = get_linear_schedule_with_warmup(optimizer, 0, len(starts))
        running = 0.0
        for start in starts:
            loss = self.loss(slice(start, start + size), on_batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            running += loss.item()

    def loss(self, rows: slice, on_batch: OnBatch) -> Tensor:
        """The loss of some texts, with the library's default weights."""
        texts, labels = self._texts[rows], self._labels[rows]
        limit = {"truncation": True, "max_length": self._workload.max_length}
        inputs = self._tokenizer(texts, padding=True, return_tensors="pt", **limit)
        on_batch(_sizes(inputs["attention_mask"]))
        seen = self.teacher.tokenizer(texts, padding=True, return_tensors="pt", **limit)
        with torch.no_grad():
            guide = self.teacher(input_ids=seen["input_ids"], attention_mask=seen["attention_mask"])
        output = self.model(**inputs, output_hidden_states=True)
        ce = F.cross_entropy(output.logits, labels)
        kd = 4 * F.kl_div(
            F.log_softmax(output.logits / 2, -1), F.softmax(guide.logits / 2, -1),
            reduction="batchmean",
        )  # fmt: skip
        feature = F.normalize(output.hidden_states[-1][:, -1], dim=-1)
        fa = (feature - F.normalize(guide.features, dim=-1)).pow(2).sum(-1).mean()
        weights = DistillConfig()
        return weights.alpha * ce + weights.beta * kd + weights.gamma * fa


ARMS: dict[str, Callable[[Workload, Path], Arm]] = {
    "w2s": lambda workload, folder: LibraryArm(workload, folder, teacher=True),
    "lora": lambda workload, folder: LibraryArm(workload, folder, teacher=False),
    "loop": lambda workload, folder: LoopArm(workload),
}
"""Name -> how to build it."""


def memory_of(name: str, workload: Workload, folder: Path) -> dict[str, float]:
    """Train one epoch and read the memory of this process; to be run in a process of its own.

    Returns:
        `loaded_mb`, the peak once everything is ready to train, and `peak_mb`, that after it.
    """
    arm = ARMS[name](workload, folder)
    loaded = _own_peak_mb()
    arm.epoch(0, lambda batch: None)
    return {"loaded_mb": loaded, "peak_mb": _own_peak_mb()}


def _own_peak_mb() -> float:
    """Peak resident memory since this program started, in MiB.

    `ru_maxrss` of a child starts from what its parent had at the fork, which is not ours; Linux
    tells the peak of the program itself, too.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
    except (OSError, IndexError, ValueError):
        return peak_memory_mb()


def _fresh_student(workload: Workload) -> Victim:
    config = StudentConfig(model=workload.student, max_length=workload.max_length)
    return load_victim(config, workload.label_names, fresh_head_seed=0)


def _fresh_teacher(workload: Workload, width: int) -> LabelTeacher:
    backbone, tokenizer = load_backbone(workload.teacher)
    labels = len(workload.label_names)
    return LabelTeacher(backbone, tokenizer, width, labels, workload.max_length).eval()


def _sizes(mask: Tensor) -> Batch:
    return Batch(tuple(mask.sum(-1).tolist()), mask.shape[1])
