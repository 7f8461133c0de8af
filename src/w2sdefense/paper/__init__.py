"""The tables and figures of the paper as recipes, and the paper's published numbers.

    recipes.yaml     the axes of each table, the settings for their values, and three scales
    published.yaml   the paper's numbers, and known errors in them

A recipe is a product of lists, which `bench/grid.py` turns into a graph of runs. Users can write
recipe files of the same form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from pydantic import Field

from w2sdefense.config import Settings, load_settings, read_yaml
from w2sdefense.errors import ConfigError

T = TypeVar("T")
Value = str | int | float
Axes = dict[str, tuple[Value, ...]]


class Patch(Settings):
    """The settings for one value of an axis: of `w2s poison`, of `w2s defend`, or of both.

    `width` is the feature width of a student. Students of the same width share their teachers.
    """

    both: dict[str, Any] = {}
    poison: dict[str, Any] = {}
    defend: dict[str, Any] = {}
    width: int | None = None


class Scale(Settings):
    """The sizes of models, data and training."""

    threads: int = Field(ge=1)  # threads of each node
    note: str = ""  # printed below its tables
    # whether models and data are generated (`bench/tiny.py`); "{made}" in a setting is their folder
    made: bool = False
    settings: Patch = Patch()  # settings of all runs
    axes: Axes = {}  # lists that replace those of the recipes
    common: Axes = {}  # values of axes that a recipe does not set
    # axis -> value -> values to add after it in tables and figures of the paper
    beside: dict[str, Axes] = {}
    # further settings for values of an axis at this scale
    names: dict[str, dict[str, Patch]] = {}

    def with_beside(self, axes: Axes) -> Axes:
        """The lists with the values of `beside` added."""
        return {
            axis: tuple(
                each for v in values for each in (v, *self.beside.get(axis, {}).get(str(v), ()))
            )
            for axis, values in axes.items()
        }


class Recipe(Settings):
    """A table or figure."""

    title: str
    note: str = ""
    # axis -> values; `common` has the values of the other axes
    axes: Axes = {}
    # further axes for each part of the rows, if the rows are not a single product
    parts: tuple[Axes, ...] = ({},)
    scales: dict[str, Axes] = {}  # lists that replace those of the recipe at a scale


class Book(Settings):
    """A file of recipes."""

    # axis -> value -> settings; applied in this order of the axes
    names: dict[str, dict[str, Patch]]
    # axis whose values are values of settings -> their paths ("defend.adapter.lora_r")
    sweeps: dict[str, tuple[str, ...]] = {}
    common: Axes  # values of axes that a recipe does not set
    scales: dict[str, Scale]
    recipes: dict[str, Recipe]

    @property
    def of_the_paper(self) -> list[str]:
        """Names of the recipes for tables and figures of the paper, in the order of the file."""
        return [name for name in self.recipes if re.fullmatch(r"(table|figure)\d+", name)]

    def recipe(self, name: str) -> Recipe:
        """The recipe with this name; raises a `ConfigError` if there is none."""
        return _named(self.recipes, name, "recipe")

    def scale(self, name: str) -> Scale:
        """The scale with this name; raises a `ConfigError` if there is none."""
        return _named(self.scales, name, "scale")


class Published(Settings):
    """A row of a table as the paper prints it, in percent, and its error, if one is known."""

    row: dict[str, Value]
    ca: float | None = None
    asr: float | None = None
    rouge1: float | None = None
    rouge2: float | None = None
    rougeL: float | None = None  # noqa: N815 - the name of the score
    flaw: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers by name; for summaries, `ca` is ROUGE-L, as in our own measurements."""
        found = self.model_dump(exclude={"row", "flaw"}, exclude_none=True)
        return {"ca": self.rougeL, **found} if self.rougeL is not None else found


@dataclass(frozen=True)
class Theirs:
    """The paper's numbers for a row of ours, in percent; means if there are several students."""

    numbers: Mapping[str, float]
    students: tuple[str, ...]
    flaws: tuple[str, ...]


class PublishedTable(Settings):
    """A table of the paper: its rows, and notes on them."""

    title: str = ""
    rows: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, axes: Mapping[str, Value]) -> Theirs | None:
        """The published numbers for a row of ours; None if there are none.

        For a student that is not in the paper, they are the means over the paper's students. All
        forms of W2SDefense are compared with the paper's.
        """
        ours = {**axes, "method": PAPER_METHODS.get(str(axes.get("method")), axes.get("method"))}
        found = [
            row
            for row in self.rows
            if all(ours.get(k) == v for k, v in row.row.items() if k != "student")
        ]
        found = [row for row in found if row.row.get("student") == axes.get("student")] or found
        if not found:
            return None
        return Theirs(
            {name: fmean(row.numbers[name] for row in found) for name in found[0].numbers},
            tuple(dict.fromkeys(str(row.row["student"]) for row in found)),
            tuple(row.flaw for row in found if row.flaw),
        )


PAPER_METHODS = {
    "w2s-paper": "w2s",
    "w2s-release": "w2s",
    "ce+kd-paper": "ce+kd",
    "ce+fa-paper": "ce+fa",
}
"""Our name of a method -> the paper's."""


class _PublishedBook(Settings):
    note: str
    tables: dict[str, PublishedTable]


def read_book(path: Path | None = None) -> Book:
    """Read a recipe file; what it does not define comes from the packaged file."""
    values = dict(_packaged("recipes.yaml"))
    if path is not None:
        for section, own in read_yaml(path).items():
            values[section] = _over(values.get(section, {}), own)
    return load_settings(Book, values, str(path or "recipes.yaml"))


@cache
def _published() -> _PublishedBook:
    return load_settings(_PublishedBook, _packaged("published.yaml"), "published.yaml")


def published(recipe: str) -> PublishedTable:
    """The paper's numbers for a recipe; an empty table for other recipes."""
    return _published().tables.get(recipe, PublishedTable())


def about_published() -> str:
    """A note on all published numbers."""
    return _published().note


@cache
def _packaged(name: str) -> dict[str, Any]:
    with as_file(files(__package__) / name) as path:
        return read_yaml(path)


def _over(below: Any, above: Any) -> Any:
    """Add the entries of `above` to those of `below`, replacing whole entries of the same name."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{k: {**below.get(k, {}), **v} if _nests(v) else v for k, v in above.items()}}


def _nests(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values())


def _named(table: Mapping[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise ConfigError(f"There is no {kind} {name!r}.", f"Choose one of {', '.join(table)}.")
    return table[name]
