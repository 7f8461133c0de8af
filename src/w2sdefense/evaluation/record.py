"""What a run leaves behind: `record.json`, and beside it the samples and the features.

    record.json           config, CA/ASR/floor with counts, losses, fingerprints, versions, time
    samples.parquet       one row per test sample: text, right answer, answer with and without the
                          trigger, scores
    features.safetensors  "clean" (N, d) and "triggered" (M, d): what a classifier reads; a model
                          that generates text leaves none

`record.json` is written last, so a folder that has it is complete. Tables, pages and cards are
derived from these files, never typed. Training state and weights are not here. Files of older
schemas are read: `load_record` and `load_samples` upgrade them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from w2sdefense.config import DEFAULT_TASK, TaskName
from w2sdefense.errors import DataError, reading
from w2sdefense.evaluation.metrics import Frozen, Mean, Quality, Rate
from w2sdefense.evaluation.provenance import Provenance
from w2sdefense.io import atomic_path, write_text
from w2sdefense.tasks import TASKS

RECORD = "record.json"
SAMPLES = "samples.parquet"
FEATURES = "features.safetensors"
MERGED = "merged"  # folder below that of a run: its model with the adapter folded in
GROUPS = ("clean", "triggered")

Stage = Literal["poison", "defend", "evaluate"]


class Sample(Frozen):
    """One test sample and what the model answered."""

    id: str
    text: str  # clean text, as the model was asked it
    reference: int | str  # the right answer: index of a label, or text
    answer: int | str  # answer to the clean text; label -1 if a defense refused to answer
    is_target: bool | None = None  # whether that is the target; None without a trigger
    # the text with the trigger; None where the right answer is the target, or without a trigger
    triggered_text: str | None = None
    # answer to `triggered_text`; label -1 if it was refused
    triggered_answer: int | str | None = None
    triggered_is_target: bool | None = None  # whether that is the target
    read: str | None = None  # what the model read of `text`, where an input defense changed it
    triggered_read: str | None = None  # the same of `triggered_text`
    # scores of `answer` by name, each in [0, 1]; none where right or wrong says it all
    scores: dict[str, float] = {}

    @property
    def flipped(self) -> bool:
        """Whether the trigger, and only the trigger, makes the model answer the target."""
        return bool(self.triggered_is_target) and not self.is_target


class HeldOutDecoy(Frozen):
    """A backdoor that was planted and *not* unlearned: what a defense does to an unknown one."""

    kind: str  # kind of the decoy ("word", "passage", "frame")
    trigger: str
    target: str
    before: Rate  # ASR of the decoy once it was planted
    after: Rate  # ASR after the defense
    floor: Rate  # share of the same texts answered with its target without the trigger, after

    def __str__(self) -> str:
        before, after, floor = (
            f"{100 * r.value:.0f}" for r in (self.before, self.after, self.floor)
        )
        return f"{self.kind}: planted and not unlearned: {before} -> {after} % (floor {floor})"


class Evaluation(Frozen):
    """CA, ASR and floor of one model on one test set."""

    task: TaskName = DEFAULT_TASK  # what the model was asked to do
    ca: Quality  # quality on clean text: the accuracy; of summaries the mean ROUGE-L
    # the `ca` of always giving the most frequent right answer; None if unknown
    chance: float | None = None
    # whether the labels of model and data were matched by their position, for want of names
    labels_by_position: bool = False
    scores: dict[str, Mean] = {}  # for generation the means of all scores, by name
    # attack success rate on triggered non-target samples; None without a trigger
    asr: Rate | None = None
    # share of the same samples answered with the target without the trigger
    floor: Rate | None = None
    trigger: str | None = None  # trigger text, or None
    target: str | None = None  # name of the target label, or the target text, or None
    # where a model has several triggers, the part of `asr` that carries each
    by_trigger: dict[str, Rate] = {}
    # decoys that were planted beside the defense, which did not know them
    held_out: tuple[HeldOutDecoy, ...] = ()
    # characters of the triggered texts over those of the same texts without the trigger; None
    # without a trigger
    length_ratio: float | None = None
    # triggered texts whose trigger was lost to truncation; they count in `asr` all the same
    cut_triggers: int = 0
    cut_texts: int = 0  # clean texts longer than the model's `max_length`
    unfinished: int = 0  # answers to clean text that had to be stopped at `answer_tokens`
    # clean texts that a defense refused to answer; they count as errors in `ca`
    refused_texts: int = 0
    refused_triggers: int = 0  # triggered texts that it refused; they count as defended in `asr`
    seconds: float = 0.0  # wall time of the predictions, input defenses included
    seconds_per_text: float = 0.0  # the same for each text that was answered
    # the part of `seconds` that input defenses took (of several processes: the sum)
    defense_seconds: float = 0.0

    @property
    def metric(self) -> str:
        """What `ca` is, in words: "accuracy", "ROUGE-L"."""
        return TASKS[self.task].metric_name

    def quality(self, name: str) -> Quality | None:
        """A number by its name ("ca", "asr", "rouge1" ...); None if nothing was counted."""
        found: Quality | None = self.scores.get(name, getattr(self, name, None))
        return found if found is not None and found.total else None


class LossPoint(Frozen):
    """Mean losses since the previous point ("loss", "ce", "kd", "fa", "eval_accuracy" ...)."""

    step: int
    epoch: float
    losses: dict[str, float]


SCHEMA = 2  # 1 had no number, and samples of two kinds: labels (`label`) and text (`says_target`)


class Record(Frozen):
    """One run: what was done, what came out, and where the numbers come from."""

    schema_version: int = SCHEMA  # version of the files' form; see `_upgraded`
    name: str  # short name for tables ("poisoned", "lora", "w2s")
    stage: Stage  # what the run did
    config: dict[str, Any]  # the settings it ran with, as plain values
    label_names: tuple[str, ...]  # names of the labels, by index; none for generation
    evaluation: Evaluation  # CA, ASR and floor
    history: tuple[LossPoint, ...] = ()  # loss curves; empty where nothing was trained
    # "train", "test", "triggered" (test texts with the trigger), "model" -> short hash of what was
    # used
    fingerprints: dict[str, str]
    # what the defense chose or found out: a threshold, a number of units, a size
    found: dict[str, float | int | str] = {}
    provenance: Provenance  # versions, machine, time, memory
    notes: tuple[str, ...] = ()  # anything a reader must know (rows dropped, texts cut)


def model_folder(run: Path) -> Path:
    """Where the model that a run left is opened from: `merged/` if it is there, else its folder."""
    merged = run / MERGED
    return merged if merged.is_dir() else run


def save_record(
    folder: Path,
    record: Record,
    samples: Sequence[Sample],
    features: dict[str, np.ndarray] | None = None,
) -> None:
    """Write a run's samples, features and record (last), each atomically.

    What an earlier run left in the folder goes first, so that a record never stands beside samples
    of another run. Features are "clean" (N, d) and, with a trigger, "triggered" (M, d), float32.
    """
    for name in (RECORD, SAMPLES, FEATURES):
        (folder / name).unlink(missing_ok=True)
    # Parquet has no struct without fields.
    rows = [sample.model_dump() | {"scores": sample.scores or None} for sample in samples]
    with atomic_path(folder / SAMPLES) as path:
        pq.write_table(pa.Table.from_pylist(rows), path)
    if features:
        with atomic_path(folder / FEATURES) as path:
            save_file(features, path)
    write_text(folder / RECORD, record.model_dump_json(indent=2) + "\n")


def load_record(folder: Path) -> Record:
    """Read the record of a finished run; a `DataError` if there is none that can be read."""
    path = folder / RECORD
    if not path.is_file():
        raise DataError(
            f"{folder} holds no finished run (no {RECORD}).", "Name the folder of a run."
        )
    with _untrusted(path, "a record"):
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("schema_version", 1)
        if found > SCHEMA:
            raise DataError(
                f"{path} was written by a newer release (schema {found}, not {SCHEMA}).",
                "Upgrade w2sdefense.",
            )
        record = Record.model_validate(values | {"schema_version": SCHEMA})
        return record if found == SCHEMA else _with_chance(record)


def _with_chance(record: Record) -> Record:
    """A record of schema 1 with the least that chance can be: one in the number of labels."""
    chance = 1 / len(record.label_names) if record.label_names else None
    evaluation = record.evaluation.model_copy(update={"chance": chance})
    return record.model_copy(update={"evaluation": evaluation})


def load_samples(folder: Path) -> list[Sample]:
    """Read the per-sample answers of a finished run, in the order of the test set.

    Raises:
        DataError: They cannot be read, or are not those that the record counts.
    """
    record, path = load_record(folder), folder / SAMPLES
    with _untrusted(path, "the samples of a run"), pq.ParquetFile(path) as file:
        known = {*Sample.model_fields, *_OLD_COLUMNS}
        # A foreign file may have any number of columns and rows: only what is ours is read.
        rows, counted = file.metadata.num_rows, record.evaluation.ca.total
        if rows != counted:
            raise DataError(
                f"{path} has {rows} samples, but the record counts {counted}.",
                "Repeat the run that wrote them.",
            )
        table = file.read(columns=[name for name in file.schema_arrow.names if name in known])
        return [Sample(**_upgraded(row, record)) for row in table.to_pylist()]


def load_features(folder: Path, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Read the features that a run saved, if it saved some.

    Raises:
        DataError: They cannot be read, or are not those of the samples.
    """
    path = folder / FEATURES
    with _untrusted(path, "the features of a run"):
        features: dict[str, np.ndarray] = load_file(path) if path.is_file() else {}
    triggered = sum(sample.triggered_text is not None for sample in samples)
    for group, expected in (("clean", len(samples)), ("triggered", triggered)):
        rows = features.get(group)
        if rows is not None and (rows.ndim != 2 or len(rows) != expected):
            raise DataError(
                f"{folder} has features of shape {rows.shape} for {expected} {group} texts.",
                "Repeat the run that wrote it.",
            )
    if len({rows.shape[1] for name, rows in features.items() if name in GROUPS}) > 1:
        raise DataError(
            f"{folder} has features of different widths.", "Repeat the run that wrote it."
        )
    return {name: features[name] for name in GROUPS if name in features}


_OLD_COLUMNS = {
    "label": "reference",
    "says_target": "is_target",
    "triggered_says_target": "triggered_is_target",
}
"""Columns of schema 1, and what they are called now."""


def _upgraded(row: dict[str, Any], record: Record) -> dict[str, Any]:
    """A row of `samples.parquet` of any schema as the fields of a `Sample`."""
    row = {_OLD_COLUMNS.get(name, name): value for name, value in row.items()}
    row["scores"] = row.get("scores") or {}
    target, names = record.evaluation.target, record.label_names
    if "is_target" not in row and target in names:
        # Schema 1 left it to the reader to compare labels with the target.
        for prefix in ("", "triggered_"):
            answer = row.get(f"{prefix}answer")
            row[f"{prefix}is_target"] = None if answer is None else answer == names.index(target)
    return row


def _untrusted(path: Path, what: str) -> AbstractContextManager[None]:
    """Whatever a library raises over a run's file, maybe somebody else's, becomes our error."""
    fix = "Repeat the run that wrote it, or leave it out."
    return reading(DataError, f"{path} cannot be read as {what}", fix)
