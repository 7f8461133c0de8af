"""What a run leaves behind: `record.json`, and beside it the samples and the features.

    record.json           config, CA/ASR/floor with counts, losses, fingerprints, versions, time
    samples.parquet       one row per test sample: text, label (for generation: reference and
                          scores), answer with and without the trigger
    features.safetensors  "clean" (N, d) and "triggered" (M, d): what the classifier reads; not
                          for generation

`record.json` is written last, so a folder that has it is complete. Tables and pages are derived
from these files, never typed. Training state and weights are not here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ArrowException
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from w2sdefense.config import TaskName
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Mean, Quality, Rate
from w2sdefense.io import atomic_path, write_text
from w2sdefense.tasks import TASKS

RECORD = "record.json"
SAMPLES = "samples.parquet"
FEATURES = "features.safetensors"

Stage = Literal["poison", "defend", "evaluate"]


class _Frozen(BaseModel):
    # A loss that diverged is a result: JSON has no NaN, so it is written as the string "NaN".
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Sample(_Frozen):
    """One test sample and what the model answered.

    Attributes:
        id: Id of the example.
        text: Clean text, as the model was asked it.
        label: True label index.
        answer: Predicted label on the clean text; -1 if a defense refused to answer.
        triggered_text: The text with the trigger; None where the true label is the target, or
            without a trigger.
        triggered_answer: Predicted label on `triggered_text`; -1 if it was refused.
        read: What the model read of `text`, where an input defense changed it.
        triggered_read: The same of `triggered_text`.
    """

    id: str
    text: str
    label: int
    answer: int
    triggered_text: str | None = None
    triggered_answer: int | None = None
    read: str | None = None
    triggered_read: str | None = None


class GeneratedSample(_Frozen):
    """One test sample and what the model wrote.

    Attributes:
        id: Id of the pair.
        text: Clean text.
        reference: The right answer.
        answer: What was written to the clean text.
        scores: Its scores, by name.
        says_target: Whether it says the target; None without a trigger.
        triggered_text: The text with the trigger; None where the reference says the target, or
            without a trigger.
        triggered_answer: What was written to `triggered_text`.
        triggered_says_target: Whether that says the target.
    """

    id: str
    text: str
    reference: str
    answer: str
    scores: dict[str, float]
    says_target: bool | None = None
    triggered_text: str | None = None
    triggered_answer: str | None = None
    triggered_says_target: bool | None = None


class Evaluation(_Frozen):
    """CA, ASR and floor of one model on one test set.

    Attributes:
        task: What the model was asked to do.
        ca: Quality on clean text: the accuracy; of summaries the mean ROUGE-L.
        scores: For generation the means of all scores, by name.
        asr: Attack success rate on triggered non-target samples; None without a trigger.
        floor: Share of the same samples answered with the target without the trigger.
        trigger: Trigger text, or None.
        target: Name of the target label, or the target text, or None.
        cut_triggers: Triggered texts whose trigger was lost to truncation; they count in `asr` all
            the same.
        by_trigger: Where a model has several triggers, the part of `asr` that carries each.
        length_ratio: Characters of the triggered texts over those of the same texts without the
            trigger; None without a trigger.
        cut_texts: Clean texts longer than the model's `max_length`.
        unfinished: Answers to clean text that had to be stopped at `answer_tokens`.
        refused_texts: Clean texts that a defense refused to answer; they count as errors in `ca`.
        refused_triggers: Triggered texts that it refused; they count as defended in `asr`.
        seconds: Wall time of the predictions, input defenses included.
        seconds_per_text: The same for each text that was answered.
        defense_seconds: The part of `seconds` that input defenses took (of several processes: the
            sum).
    """

    task: TaskName = "classification"
    ca: Quality
    scores: dict[str, Mean] = {}
    asr: Rate | None = None
    floor: Rate | None = None
    trigger: str | None = None
    target: str | None = None
    by_trigger: dict[str, Rate] = {}
    length_ratio: float | None = None
    cut_triggers: int = 0
    cut_texts: int = 0
    unfinished: int = 0
    refused_texts: int = 0
    refused_triggers: int = 0
    seconds: float = 0.0
    seconds_per_text: float = 0.0
    defense_seconds: float = 0.0

    @property
    def metric(self) -> str:
        """What `ca` is, in words: "accuracy", "ROUGE-L"."""
        return "accuracy" if self.task == "classification" else TASKS[self.task].metric_name


class Provenance(_Frozen):
    """Where the numbers come from.

    Attributes:
        versions: Package -> version.
        machine: Processor, cores, accelerators; processes, and threads used by each.
        started: UTC time of the start, ISO 8601.
        seconds: Wall time of the run (training included), in seconds; of one that was cut off and
            gone on with, since it was last started.
        peak_memory_mb: Largest resident memory of the process, in MiB.
    """

    versions: dict[str, str]
    machine: dict[str, str]
    started: str
    seconds: float
    peak_memory_mb: float


class LossPoint(_Frozen):
    """Mean losses since the previous point.

    Attributes:
        step: Optimizer step.
        epoch: Epoch as a fraction.
        losses: Name -> value ("loss", "ce", "kd", "fa", "eval_accuracy" ...).
    """

    step: int
    epoch: float
    losses: dict[str, float]


class Record(_Frozen):
    """One run: what was done, what came out, and where the numbers come from.

    Attributes:
        name: Short name for tables ("poisoned", "lora", "w2s").
        stage: What the run did.
        config: The settings it ran with, as plain values.
        label_names: Names of the labels, by index; none for generation.
        evaluation: CA, ASR and floor.
        history: Loss curves; empty where nothing was trained.
        fingerprints: "train", "test", "triggered" (test texts with the trigger), "model" ->
            short hash of what was used.
        found: What the defense chose or found out: a threshold, a number of units, a size.
        provenance: Versions, machine, time, memory.
        notes: Anything a reader must know (rows dropped, texts cut).
    """

    name: str
    stage: Stage
    config: dict[str, Any]
    label_names: tuple[str, ...]
    evaluation: Evaluation
    history: tuple[LossPoint, ...] = ()
    fingerprints: dict[str, str]
    found: dict[str, float | int | str] = {}
    provenance: Provenance
    notes: tuple[str, ...] = ()


def save_record(
    folder: Path,
    record: Record,
    samples: Sequence[Sample] | Sequence[GeneratedSample],
    features: dict[str, np.ndarray] | None = None,
) -> None:
    """Write a run's samples, features and record (last), each atomically.

    What an earlier run left in the folder goes first, so that a record never stands beside samples
    of another run.

    Args:
        folder: The run's folder; made if missing.
        record: The record.
        samples: Per-sample answers.
        features: "clean" (N, d) and, with a trigger, "triggered" (M, d), float32.
    """
    for name in (RECORD, SAMPLES, FEATURES):
        (folder / name).unlink(missing_ok=True)
    with atomic_path(folder / SAMPLES) as path:
        pq.write_table(pa.Table.from_pylist([s.model_dump() for s in samples]), path)
    if features is not None:
        with atomic_path(folder / FEATURES) as path:
            save_file(features, path)
    write_text(folder / RECORD, record.model_dump_json(indent=2) + "\n")


def load_record(folder: Path) -> Record:
    """Read the record of a finished run.

    Raises:
        DataError: There is no finished run in the folder, or its record is not readable.
    """
    path = folder / RECORD
    if not path.is_file():
        raise DataError(
            f"{folder} holds no finished run (no {RECORD}).", "Name the folder of a run."
        )
    try:
        return Record.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ValidationError) as error:
        raise DataError(
            f"{path} is not a record: {error}.", "Repeat the run that wrote it."
        ) from None


def load_samples(folder: Path) -> list[Sample]:
    """Read the per-sample answers of a finished run, in the order of the test set.

    Raises:
        DataError: They cannot be read.
    """
    return [_row(Sample, row, folder) for row in _rows(folder)]


def load_generated(folder: Path) -> list[GeneratedSample]:
    """Read the per-sample answers of a finished run of generation, in the order of the test set.

    Raises:
        DataError: They cannot be read.
    """
    return [_row(GeneratedSample, row, folder) for row in _rows(folder)]


def load_features(folder: Path, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Read the saved features of a run; empty if the run saved none.

    Args:
        folder: The run's folder.
        samples: Its samples.

    Raises:
        DataError: They cannot be read, or are not those of the samples.
    """
    path = folder / FEATURES
    try:
        features: dict[str, np.ndarray] = load_file(path) if path.is_file() else {}
    except (OSError, SafetensorError) as error:
        raise _unreadable("features", folder, error) from None
    triggered = sum(sample.triggered_text is not None for sample in samples)
    for group, expected in (("clean", len(samples)), ("triggered", triggered)):
        rows = features.get(group)
        if rows is not None and len(rows) != expected:
            raise DataError(
                f"{folder} has features of {len(rows)} {group} texts, but {expected} such samples.",
                "Repeat the run that wrote it.",
            )
    return features


def _rows(folder: Path) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = pq.read_table(folder / SAMPLES).to_pylist()
    except (OSError, ValueError, ArrowException) as error:
        raise _unreadable("samples", folder, error) from None
    return found


Row = TypeVar("Row")


def _row(kind: Callable[..., Row], values: dict[str, Any], folder: Path) -> Row:
    try:
        return kind(**values)
    except TypeError as error:
        raise _unreadable("samples", folder, error) from None


def _unreadable(what: str, folder: Path, error: Exception) -> DataError:
    return DataError(
        f"The {what} of {folder} cannot be read: {error}.", "Repeat the run that wrote them."
    )
