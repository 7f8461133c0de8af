"""The result files of a run: `record.json`, the samples and the features.

    record.json           config, CA/ASR/floor with counts, losses, fingerprints, versions, time
    samples.parquet       one row per test sample: text, right answer, answer with and without the
                          trigger, scores
    features.safetensors  "clean" (N, d) and "triggered" (M, d): the inputs of a classifier's head;
                          not written for models that generate text

`record.json` is written last, so a folder that has it is complete. Tables, pages and cards are
generated from these files, never typed by hand. They do not contain weights or training state.
`load_record` and `load_samples` upgrade files of older schemas.
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
MERGED = "merged"  # subfolder of a run: its model with the adapter merged
GROUPS = ("clean", "triggered")

Stage = Literal["poison", "defend", "evaluate"]


class Sample(Frozen):
    """One test sample and the model's answers."""

    id: str
    text: str  # clean text, as given to the model
    reference: int | str  # the right answer: index of a label, or text
    answer: int | str  # answer to the clean text; label -1 if a defense refused to answer
    is_target: bool | None = None  # whether `answer` is the target; None without a trigger
    # the text with the trigger; None without a trigger, or if this sample does not count in ASR
    triggered_text: str | None = None
    # answer to `triggered_text`; label -1 if it was refused
    triggered_answer: int | str | None = None
    triggered_is_target: bool | None = None  # whether `triggered_answer` is the target
    read: str | None = None  # what the model read for `text`, if an input defense changed it
    triggered_read: str | None = None  # the same for `triggered_text`
    # scores of `answer` by name, each in [0, 1]; empty for labels
    scores: dict[str, float] = {}

    @property
    def flipped(self) -> bool:
        """Whether the trigger, and only the trigger, makes the model answer the target."""
        return bool(self.triggered_is_target) and not self.is_target


class HeldOutDecoy(Frozen):
    """A decoy that was planted and *not* unlearned: it shows the effect on unknown backdoors."""

    kind: str  # kind of the decoy ("word", "passage", "frame")
    trigger: str
    target: str
    before: Rate  # ASR of the decoy in the suspect
    after: Rate  # ASR of the decoy after the defense
    floor: Rate  # share of the same texts answered with its target without it, after the defense

    def __str__(self) -> str:
        before, after, floor = (
            f"{100 * r.value:.0f}" for r in (self.before, self.after, self.floor)
        )
        return f"{self.kind}: planted and not unlearned: {before} -> {after} % (floor {floor})"


class Evaluation(Frozen):
    """CA, ASR and floor of one model on one test set."""

    task: TaskName = DEFAULT_TASK
    ca: Quality  # quality on clean text: accuracy; for summaries, mean ROUGE-L
    # the `ca` of always giving the most frequent right answer; None if unknown
    chance: float | None = None
    # whether the labels of model and data were matched by position, because names are missing
    labels_by_position: bool = False
    scores: dict[str, Mean] = {}  # for generation, the means of all scores by name
    # attack success rate on triggered non-target samples; None without a trigger
    asr: Rate | None = None
    # share of the same samples answered with the target without the trigger
    floor: Rate | None = None
    trigger: str | None = None  # trigger text, or None
    target: str | None = None  # name of the target label, or the target text, or None
    # with several triggers, the ASR of each
    by_trigger: dict[str, Rate] = {}
    # decoys that the defense did not know
    held_out: tuple[HeldOutDecoy, ...] = ()
    # characters of the triggered texts, divided by those of the same texts without the trigger;
    # None without a trigger
    length_ratio: float | None = None
    # triggered texts whose trigger was lost to truncation; they still count in `asr`
    cut_triggers: int = 0
    cut_texts: int = 0  # clean texts longer than the model's `max_length`
    unfinished: int = 0  # answers to clean text that were cut off at `answer_tokens`
    # clean texts that a defense refused to answer; they count as errors in `ca`
    refused_texts: int = 0
    refused_triggers: int = 0  # triggered texts that it refused; they count as defended in `asr`
    seconds: float = 0.0  # wall time of the predictions, including input defenses
    seconds_per_text: float = 0.0  # `seconds` divided by the number of texts
    # the part of `seconds` spent in input defenses (summed over processes)
    defense_seconds: float = 0.0

    @property
    def metric(self) -> str:
        """The name of the metric in `ca`: "accuracy", "ROUGE-L"."""
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


SCHEMA = 2  # schema 1 had no number, and other sample columns, see `_OLD_COLUMNS`


class Record(Frozen):
    """One run: what was done, the results, and where the numbers come from."""

    schema_version: int = SCHEMA  # version of the file format; see `_upgraded`
    name: str  # short name for tables ("poisoned", "lora", "w2s")
    stage: Stage  # what the run did
    config: dict[str, Any]  # the settings of the run, as JSON values
    label_names: tuple[str, ...]  # names of the labels, by index; empty for generation
    evaluation: Evaluation  # CA, ASR and floor
    history: tuple[LossPoint, ...] = ()  # loss curves; empty if nothing was trained
    # "train", "test", "triggered" (test texts with the trigger), "model" -> short hash
    fingerprints: dict[str, str]
    # values that the defense chose or measured: a threshold, a number of units, a size
    found: dict[str, float | int | str] = {}
    provenance: Provenance  # versions, machine, time, memory
    notes: tuple[str, ...] = ()  # notes for readers (dropped rows, cut texts)


def model_folder(run: Path) -> Path:
    """The folder to open a run's model from: `merged/` if it exists, else the run's folder."""
    merged = run / MERGED
    return merged if merged.is_dir() else run


def save_record(
    folder: Path,
    record: Record,
    samples: Sequence[Sample],
    features: dict[str, np.ndarray] | None = None,
) -> None:
    """Write a run's samples, features and record (last), each atomically.

    First removes the files of an earlier run, so that a folder never mixes files of two runs.
    Features are "clean" (N, d) and, with a trigger, "triggered" (M, d), float32.
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
    """Read the record of a finished run; raises a `DataError` if it is missing or unreadable."""
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
    """Add the lowest possible `chance`, 1 / number of labels, to a record of schema 1."""
    chance = 1 / len(record.label_names) if record.label_names else None
    evaluation = record.evaluation.model_copy(update={"chance": chance})
    return record.model_copy(update={"evaluation": evaluation})


def load_samples(folder: Path) -> list[Sample]:
    """Read the per-sample answers of a finished run, in the order of the test set.

    Raises:
        DataError: The samples cannot be read, or their number differs from that in the record.
    """
    record, path = load_record(folder), folder / SAMPLES
    with _untrusted(path, "the samples of a run"), pq.ParquetFile(path) as file:
        known = {*Sample.model_fields, *_OLD_COLUMNS}
        # An untrusted file may have any number of rows and columns: read only the known ones.
        rows, counted = file.metadata.num_rows, record.evaluation.ca.total
        if rows != counted:
            raise DataError(
                f"{path} has {rows} samples, but the record counts {counted}.",
                "Rerun the command that wrote them.",
            )
        table = file.read(columns=[name for name in file.schema_arrow.names if name in known])
        return [Sample(**_upgraded(row, record)) for row in table.to_pylist()]


def load_features(folder: Path, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Read the features of a run; empty if it saved none.

    Raises:
        DataError: The features cannot be read, or their shapes do not fit the samples.
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
                "Rerun the command that wrote it.",
            )
    if len({rows.shape[1] for name, rows in features.items() if name in GROUPS}) > 1:
        raise DataError(
            f"{folder} has features of different widths.", "Rerun the command that wrote it."
        )
    return {name: features[name] for name in GROUPS if name in features}


_OLD_COLUMNS = {
    "label": "reference",
    "says_target": "is_target",
    "triggered_says_target": "triggered_is_target",
}
"""Columns of schema 1 -> their present names."""


def _upgraded(row: dict[str, Any], record: Record) -> dict[str, Any]:
    """Convert a row of `samples.parquet` of any schema to the fields of a `Sample`."""
    row = {_OLD_COLUMNS.get(name, name): value for name, value in row.items()}
    row["scores"] = row.get("scores") or {}
    target, names = record.evaluation.target, record.label_names
    if "is_target" not in row and target in names:
        # Schema 1 did not store this for labels.
        for prefix in ("", "triggered_"):
            answer = row.get(f"{prefix}answer")
            row[f"{prefix}is_target"] = None if answer is None else answer == names.index(target)
    return row


def _untrusted(path: Path, what: str) -> AbstractContextManager[None]:
    """Turn any exception that a library raises for a (possibly foreign) file into a `DataError`."""
    fix = "Repeat the run that wrote it, or leave it out."
    return reading(DataError, f"{path} cannot be read as {what}", fix)
