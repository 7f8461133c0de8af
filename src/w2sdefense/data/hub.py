"""Loads datasets from the hub, and folders that `datasets.save_to_disk` wrote.

Only `fetch` uses the network, and only `convert` handles a `datasets.DatasetDict`. Not supported:
datasets with several configurations, multi-label columns, and streaming.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2sdefense.data.rows import Columns, Record, Source, listed, missing_column, to_rows
from w2sdefense.data.splits import pick_splits
from w2sdefense.errors import DataError, reading

_HUB_ID = re.compile(r"(?:hf://(?:datasets/|models/)?)?([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


def split_hub_id(name: str) -> tuple[str, str | None] | None:
    """Split a name such as `hf://datasets/owner/data@v1.0` into hub id and revision.

    Models are named `hf://owner/model@v1.0`; the prefix may be omitted for both. Returns None if
    the name cannot be a hub id; the revision is None if the name has none.
    """
    found = _HUB_ID.fullmatch(name)
    return (found[1], found[2]) if found else None


def commit_of(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache; None for other folders."""
    return folder.name if folder.parent.name == "snapshots" else None


def fetch(hub_id: str, revision: str | None = None) -> Mapping[str, Any]:
    """Load every split of a hub dataset, from the local cache if possible."""
    import datasets

    with reading(
        DataError,
        f"Cannot load the dataset {hub_id!r} from the hub",
        "Check the name and the network (HF_ENDPOINT names a mirror). Without a hub, use a CSV, "
        "JSONL or Parquet file, the embedded rotten-tomatoes or imdb, or a folder of datasets in "
        "W2S_DATA.",
    ):
        loaded: Mapping[str, Any] = datasets.load_dataset(hub_id, revision=revision)
    return loaded


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_saved(folder: Path) -> Mapping[str, Any]:
    """Open a folder that `datasets.save_to_disk` wrote."""
    import datasets

    with reading(
        DataError, f"Cannot read the Arrow folder {folder}", "Save it again with save_to_disk."
    ):
        loaded = datasets.load_from_disk(str(folder), keep_in_memory=True)
        splits = loaded if isinstance(loaded, Mapping) else {"train": loaded}
        for split in splits.values():
            # Arrow does not check offsets by default.
            split.data.validate(full=True)
    return splits


def convert(
    loaded: Mapping[str, Any],
    name: str,
    columns: Columns,
    label_names: tuple[str, ...] | None = None,
) -> Source:
    """Read the splits of a `DatasetDict`: split name -> `datasets.Dataset`.

    A label of -1 marks a row without a label. Without `label_names`, the names come from the data
    (`ClassLabel` or values).

    Raises:
        DataError: There is no train split, or it lacks a column.
    """
    chosen = pick_splits(loaded)
    if "train" not in chosen:
        raise DataError(
            f"{name} has no train split. Its splits are: {listed(loaded)}.",
            "Name another dataset, or save the splits you want as files and name their folder.",
        )
    feature = loaded[chosen["train"]].features.get(columns.label)
    class_names = label_names or (tuple(getattr(feature, "names", None) or ()) or None)
    splits = {
        split: to_rows(
            _records(loaded[there], f"{name} {there}", columns, class_names),
            columns,
            f"{name}/{there}",
        )
        for split, there in chosen.items()
    }
    return Source(name, splits, class_names)


def _records(
    dataset: Any, where: str, columns: Columns, class_names: tuple[str, ...] | None
) -> list[Record]:
    for column in columns.names:
        if column not in dataset.column_names:
            raise missing_column(where, column, dataset.column_names)
    with reading(DataError, f"Cannot read {where}", "Save the dataset again."):
        values = dataset.with_format(None).select_columns(list(columns.names))[:]
    labels = values[columns.label]
    # Without names, -1 may be a class (-1, 0, 1), unless all labels are -1.
    if class_names is not None or set(map(repr, labels)) == {"-1"}:
        labels = [None if label == -1 else _named(label, class_names) for label in labels]
    values[columns.label] = labels
    return [
        Record(index, f"{where}, row {index + 1}", dict(zip(values, row, strict=True)))
        for index, row in enumerate(zip(*values.values(), strict=True))
    ]


def _named(label: object, class_names: tuple[str, ...] | None) -> object:
    """Replace an index by its name, because names may be numbers themselves ("1" to "5")."""
    if class_names is None or not isinstance(label, int) or not 0 <= label < len(class_names):
        return label
    return class_names[label]
