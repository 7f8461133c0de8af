"""The tables and figures of the paper as recipes, and the numbers that it published.

    recipes.yaml     what is varied in which table, at two scales, and what the names mean
    published.yaml   the paper's own numbers, and what is known about them

A recipe is a product of lists. How it becomes a graph of runs is in `bench/grid.py`; a file
of the same form with recipes of one's own is read in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from w2sdefense.config import Settings, load_settings, read_yaml
from w2sdefense.errors import ConfigError

T = TypeVar("T")
Value = str | int | float
Axes = dict[str, tuple[Value, ...]]


class Patch(Settings):
    """What one value of an axis means, as settings of the runs.

    Attributes:
        both: For the run that poisons and the run that defends.
        poison: For the run that poisons (`PoisonRun`).
        defend: For the run that defends (`DefendRun`).
        width: Of a student: width of its feature, if it is known without opening it; students of
            the same width share their teachers.
    """

    both: dict[str, Any] = {}
    poison: dict[str, Any] = {}
    defend: dict[str, Any] = {}
    width: int | None = None


class Scale(Settings):
    """How large everything is.

    Attributes:
        threads: Threads of each node.
        settings: What all runs have in common.
        axes: Lists that replace those of the recipes.
        names: Names that mean something else, or more, at this scale.
    """

    threads: int = Field(ge=1)
    settings: Patch = Patch()
    axes: Axes = {}
    names: dict[str, dict[str, Patch]] = {}


class Recipe(Settings):
    """A table or figure.

    Attributes:
        title: What it shows.
        note: What a reader must know of it.
        axes: What is varied: name of the axis -> its values. What is not named is as in `common`.
        parts: More axes for a part of the rows each, where not all are one product.
        scales: Lists that replace those of the recipe at a scale.
    """

    title: str
    note: str = ""
    axes: Axes = {}
    parts: tuple[Axes, ...] = ({},)
    scales: dict[str, Axes] = {}


class Book(Settings):
    """A file of recipes.

    Attributes:
        names: Axis -> value -> what it means; their order is that in which they are applied.
        sweeps: Axis whose values are values of settings -> where those are
            ("defend.adapter.lora_r").
        common: Values of the axes where a recipe says nothing.
        scales: The scales, by name.
        recipes: The recipes, by name.
    """

    names: dict[str, dict[str, Patch]]
    sweeps: dict[str, tuple[str, ...]] = {}
    common: Axes
    scales: dict[str, Scale]
    recipes: dict[str, Recipe]

    def recipe(self, name: str) -> Recipe:
        """The recipe of a name.

        Raises:
            ConfigError: There is none.
        """
        return _named(self.recipes, name, "recipe")

    def of_the_paper(self) -> list[str]:
        """The recipes that are tables and figures of the paper, in its order."""
        return [name for name in self.recipes if re.fullmatch(r"(table|figure)\d+", name)]

    def scale(self, name: str) -> Scale:
        """The scale of a name.

        Raises:
            ConfigError: There is none.
        """
        return _named(self.scales, name, "scale")


class Published(Settings):
    """A row of a table as the paper prints it.

    Attributes:
        row: The values of the axes that it belongs to.
        ca: Clean accuracy (or what stands for it) in percent.
        asr: Attack success rate in percent.
    """

    row: dict[str, Value]
    ca: float | None = None
    asr: float | None = None


class PublishedTable(Settings):
    """What the paper prints, as far as it was checked against the paper.

    Attributes:
        rows: Its rows.
        notes: What is known about them.
    """

    rows: tuple[Published, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, axes: Mapping[str, Value]) -> Published | None:
        """The published row for a row of ours, if there is one."""
        return next((p for p in self.rows if p.row.items() <= axes.items()), None)


class _PublishedBook(Settings):
    tables: dict[str, PublishedTable]


def read_book(path: Path | None = None) -> Book:
    """Read a file of recipes; without one the paper's.

    A file of one's own takes everything that it does not have itself from the paper's.

    Raises:
        ConfigError: It cannot be read or is not of this form.
    """
    values = _packaged("recipes.yaml")
    if path is not None:
        for section, own in read_yaml(path).items():
            values[section] = _over(values.get(section, {}), own)
    return load_settings(Book, values, str(path or "recipes.yaml"))


def published(recipe: str) -> PublishedTable:
    """What the paper prints for a recipe; nothing for a recipe of one's own."""
    book = load_settings(_PublishedBook, _packaged("published.yaml"), "published.yaml")
    return book.tables.get(recipe, PublishedTable())


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
