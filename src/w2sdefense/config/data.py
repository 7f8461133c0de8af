"""Which texts to work on. Whether a column or a label exists is checked by `data/`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from w2sdefense.config.settings import ADVANCED, FILES, Positive, Settings


class DataConfig(Settings):
    """Which texts to work on, and how many of them."""

    dataset: str = Field(
        "rotten-tomatoes",
        description="Dataset: a name that w2s ls lists, a hub id (owner/data@revision), a CSV, "
        "JSONL or Parquet file (also .gz, .zst), or a folder with train/validation/test files or "
        "from save_to_disk.",
        json_schema_extra=FILES,
    )
    text_column: str = Field("text", description="Column that holds the text.")
    text_pair_column: str | None = Field(
        None,
        description="Column of a second text, for sentence pairs.",
    )
    label_column: str = Field(
        "label", description="Column that holds the label (a name or an index)."
    )
    target_column: str = Field(
        "target", description="Column that holds the answer (summarization, reasoning)."
    )
    train_samples: Positive | None = Field(None, description="Use at most this many training rows.")
    train_skip: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Pass over this many training rows first, so that two parties can hold "
        "different rows of one dataset.",
        json_schema_extra=ADVANCED,
    )
    validation_samples: Positive | None = Field(
        None,
        description="At most this many validation rows.",
        json_schema_extra=ADVANCED,
    )
    test_samples: Positive | None = Field(None, description="Use at most this many test rows.")
    data_seed: int = Field(
        0, description="Seed of the splits and of which rows are kept.", json_schema_extra=ADVANCED
    )
