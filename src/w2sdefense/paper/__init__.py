"""The tables and figures of the paper as recipes, and the numbers that it published.

    recipes.yaml     what is varied in which table, at three scales, and what the names mean
    published.yaml   the paper's own numbers, and what is known about them

A recipe is a product of lists; `bench/grid.py` makes a graph of runs of it. A file of the same form
with recipes of one's own is read in the same way.
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
    """What one value of an axis means, as settings of the run that poisons, that defends, or both.

    Students of the same width (of their feature) share their teachers.
    """

    both: dict[str, Any] = {}
    poison: dict[str, Any] = {}
    defend: dict[str, Any] = {}
    width: int | None = None


class Scale(Settings):
    """How large everything is."""

    threads: int = Field(ge=1)  # threads of each node
    note: str = ""  # what a reader of its tables must know
    # whether models and data are made on the spot (`bench/tiny.py`); "{made}" in a setting is their
    # folder
    made: bool = False
    settings: Patch = Patch()  # what all runs have in common
    axes: Axes = {}  # lists that replace those of the recipes
    common: Axes = {}  # values of the axes where a recipe says nothing
    # axis -> value -> values that are added behind it in tables and figures of the paper
    beside: dict[str, Axes] = {}
    # names that mean something else, or more, at this scale
    names: dict[str, dict[str, Patch]] = {}

    def with_beside(self, axes: Axes) -> Axes:
        """Lists with what this scale adds to them."""
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
    # what is varied: name of the axis -> its values. What is not named is as in `common`.
    axes: Axes = {}
    # more axes for a part of the rows each, where not all are one product
    parts: tuple[Axes, ...] = ({},)
    scales: dict[str, Axes] = {}  # lists that replace those of the recipe at a scale


class Book(Settings):
    """A file of recipes."""

    # axis -> value -> what it means; their order is that in which they are applied
    names: dict[str, dict[str, Patch]]
    # axis whose values are values of settings -> where those are ("defend.adapter.lora_r")
    sweeps: dict[str, tuple[str, ...]] = {}
    common: Axes  # values of the axes where a recipe says nothing
    scales: dict[str, Scale]  # the scales, by name
    recipes: dict[str, Recipe]  # the recipes, by name

    @property
    def of_the_paper(self) -> list[str]:
        """The recipes that are tables and figures of the paper, in its order."""
        return [name for name in self.recipes if re.fullmatch(r"(table|figure)\d+", name)]

    def recipe(self, name: str) -> Recipe:
        """The recipe of a name."""
        return _named(self.recipes, name, "recipe")

    def scale(self, name: str) -> Scale:
        """The scale of a name."""
        return _named(self.scales, name, "scale")


class Published(Settings):
    """A row of a table as the paper prints it, in percent, with its known flaw."""

    row: dict[str, Value]
    ca: float | None = None
    asr: float | None = None
    rouge1: float | None = None
    rouge2: float | None = None
    rougeL: float | None = None  # noqa: N815 - the name of the score
    flaw: str = ""

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers by name. Of summaries the quality, `ca`, is ROUGE-L, as it is of ours."""
        found = self.model_dump(exclude={"row", "flaw"}, exclude_none=True)
        return {"ca": self.rougeL, **found} if self.rougeL is not None else found


@dataclass(frozen=True)
class Theirs:
    """What the paper prints for a row of ours, in percent; of several students their means."""

    numbers: Mapping[str, float]
    students: tuple[str, ...]
    flaws: tuple[str, ...]


class PublishedTable(Settings):
    """What the paper prints under a number: its rows, and what is known about them."""

    title: str = ""
    rows: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, axes: Mapping[str, Value]) -> Theirs | None:
        """The published numbers for a row of ours, if there are some.

        For a student that the paper does not have they are the means over its students. All forms
        of W2SDefense stand beside the paper's one.
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
    """Read a file of recipes, which takes what it does not have itself from the paper's."""
    values = dict(_packaged("recipes.yaml"))
    if path is not None:
        for section, own in read_yaml(path).items():
            values[section] = _over(values.get(section, {}), own)
    return load_settings(Book, values, str(path or "recipes.yaml"))


@cache
def _published() -> _PublishedBook:
    return load_settings(_PublishedBook, _packaged("published.yaml"), "published.yaml")


def published(recipe: str) -> PublishedTable:
    """What the paper prints for a recipe; nothing for a recipe of one's own."""
    return _published().tables.get(recipe, PublishedTable())


def about_published() -> str:
    """What a reader must know of all published numbers."""
    return _published().note


@cache
def _packaged(name: str) -> dict[str, Any]:
    with as_file(files(__package__) / name) as path:
        return read_yaml(path)


def _over(below: Any, above: Any) -> Any:
    """Names of the file above are added; what is below a name is replaced as a whole."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{k: {**below.get(k, {}), **v} if _nests(v) else v for k, v in above.items()}}


def _nests(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(inner, dict) for inner in value.values())


def _named(table: Mapping[str, T], name: str, kind: str) -> T:
    if name not in table:
        raise ConfigError(f"There is no {kind} {name!r}.", f"Choose one of {', '.join(table)}.")
    return table[name]
