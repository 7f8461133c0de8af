"""Datasets from the hub, by their id.

`fetch` is the only place that touches the network and `convert` the only one that knows what a
`datasets.DatasetDict` looks like. Not covered: datasets with several configurations, multi-label
columns, and streaming.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from w2sdefense.data.rows import Columns, Record, Source, missing_column, to_rows
from w2sdefense.data.splits import pick_splits
from w2sdefense.errors import DataError


def fetch(hub_id: str) -> Mapping[str, Any]:
    """Load every split of a hub dataset, from the local cache where it is there already.

    Raises:
        DataError: The hub cannot be reached, has no such dataset, or cannot serve it as it is.
    """
    import datasets

    try:
        loaded: Mapping[str, Any] = datasets.load_dataset(hub_id)
    # Network, hub client, dataset builder and Arrow raise errors that have no common base.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise DataError(
            f"Cannot load the dataset {hub_id!r} from the hub: {reason.rstrip('.')}.",
            "Check the name and the network (HF_ENDPOINT names a mirror). Without a hub, use a "
            "CSV, JSONL or Parquet file, the embedded rotten-tomatoes or imdb, or a folder of "
            "datasets in W2S_DATA.",
        ) from error
    return loaded


def convert(
    loaded: Mapping[str, Any],
    name: str,
    columns: Columns,
    label_names: tuple[str, ...] | None = None,
) -> Source:
    """Read the splits of a `DatasetDict`.

    Args:
        loaded: Split name -> `datasets.Dataset`.
        name: Name of the dataset, which the ids start with.
        columns: Where text and label are.
        label_names: Names of the labels by index; None takes them from the data (`ClassLabel` or
            values).

    Returns:
        The splits we use. Labels of -1, with which the hub marks rows without a label, are missing
        labels.

    Raises:
        DataError: There is no train split, or it lacks a column.
    """
    chosen = pick_splits(loaded)
    if "train" not in chosen:
        raise DataError(
            f"{name} has no train split. Its splits are: {', '.join(loaded)}.",
            "Name another dataset, or save the splits you want as files and name their folder.",
        )
    class_names = label_names or _class_names(loaded[chosen["train"]], columns.label)
    splits = {
        split: to_rows(
            _records(loaded[there], f"{name} {there}", columns, class_names),
            columns,
            f"{name}/{there}",
        )
        for split, there in chosen.items()
    }
    return Source(name, splits, class_names)


def _class_names(dataset: Any, column: str) -> tuple[str, ...] | None:
    names = getattr(dataset.features.get(column), "names", None)
    return None if names is None else tuple(names)


def _records(
    dataset: Any, where: str, columns: Columns, class_names: tuple[str, ...] | None
) -> list[Record]:
    for column in columns:
        if column not in dataset.column_names:
            raise missing_column(where, column, dataset.column_names)
    values = dataset.with_format(None).select_columns(list(columns))[:]
    labels = values[columns.label]
    # Without names -1 may be a class of its own (-1, 0, 1), unless there is nothing else.
    if class_names is not None or set(map(repr, labels)) == {"-1"}:
        labels = [None if label == -1 else _named(label, class_names) for label in labels]
    return [
        Record(index, f"{where}, row {index + 1}", {columns.text: text, columns.label: label})
        for index, (text, label) in enumerate(zip(values[columns.text], labels, strict=True))
    ]


def _named(label: object, class_names: tuple[str, ...] | None) -> object:
    """Replace an index by its name: names may be numbers themselves ("1" to "5")."""
    if class_names is None or not isinstance(label, int) or not 0 <= label < len(class_names):
        return label
    return class_names[label]
