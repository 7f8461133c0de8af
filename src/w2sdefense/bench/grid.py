"""Turns a recipe into the cells of its table, and each cell into a graph of nodes.

`paper/recipes.yaml` maps the values of a cell to settings. The settings define the nodes: the
victim, the teacher and the defended model. No model is opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from w2sdefense.bench.ledger import Node, in_order
from w2sdefense.bench.local_files import local_files
from w2sdefense.commands.runs import BenchRun, DefendRun, PoisonRun, TeachRun
from w2sdefense.config import DEFAULT_TASK, load_settings, merged, nested
from w2sdefense.defenses.catalog import sections_of
from w2sdefense.errors import ConfigError
from w2sdefense.paper import Axes, Book, Patch, Recipe, Scale, Value, read_book

EVERYTHING = "paper"  # recipe name for all tables and figures of the paper
POISONED = "poisoned"  # the method for the undefended victim
_ROWS, _TESTS = 5000, 1500  # assumed sizes of splits without a limit, for estimates
ANY = "any"  # value of an axis that has no effect on a row
_STAGES = ("poison", "defend")

_NEGATIVE = {"test": {"target": "negative"}}

LITERAL: dict[str, Callable[[str], dict[str, Any]]] = {
    "student": lambda name: {
        "both": {"student": {"model": name}},
        # Only merging knows the base model.
        "defend": {"merging": {"base": name}},
    },
    "teacher": lambda name: {"defend": {"teacher": {"model": name}}},
    "dataset": lambda name: {"both": {"data": {"dataset": name}}, "defend": _NEGATIVE},
    "proxy": lambda name: {"poison": {"proxy": name}},
}
"""Axes that also accept values without an entry in the recipes, and the settings for them."""


@dataclass(frozen=True)
class Cell:
    """One row of a table: its value on every axis, and the node whose result it shows."""

    axes: Mapping[str, Value]
    node: Node


@dataclass(frozen=True)
class Grid:
    """A recipe at a scale: the rows of its table, and notes for its readers."""

    name: str
    scale: str
    recipe: Recipe
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]

    @property
    def nodes(self) -> list[Node]:
        """All nodes, every node after the nodes that it needs."""
        return in_order(cell.node for cell in self.cells)


def book_of(run: BenchRun) -> tuple[Book, str]:
    """The recipe file that a command names, and the name of the recipe in it."""
    file, _, name = run.recipe.rpartition(":")
    return read_book(Path(file) if file else None), name


def made_for(run: BenchRun) -> Path:
    """The folder of the models and data that the scale `tiny` generates."""
    return run.output / "tiny"


def make_grids(run: BenchRun) -> list[Grid]:
    """The grids of a command: one, or all of the paper for the recipe `paper`."""
    if run.recipe != EVERYTHING:
        return [make_grid(run)]
    names = read_book().of_the_paper
    return [make_grid(run.model_copy(update={"recipe": name})) for name in names]


def make_grid(run: BenchRun) -> Grid:
    """The grid of a recipe; raises a `ConfigError` for an unknown recipe, scale or value."""
    book, name = book_of(run)
    recipe, scale = book.recipe(name), book.scale(run.scale)
    if name not in book.of_the_paper:
        # `beside` adds rows to the tables of the paper only.
        scale = scale.model_copy(update={"beside": {}})
    chosen: dict[str, tuple[Value, ...]] = {
        "student": run.student,
        "teacher": run.teacher,
        "dataset": run.dataset,
        "proxy": run.proxy,
        "attack": run.attack,
        "method": run.method,
        "seed": run.seeds,
    }
    made = made_for(run).absolute()
    builder = _Builder(book, scale, run.limit, run.threads or scale.threads, made)
    cells = [
        builder.cell(dict(zip(axes, values, strict=True)))
        for part in recipe.parts
        for axes in [_axes_of(part, book, recipe, scale, run.scale, chosen)]
        for values in product(*axes.values())
    ]
    if not cells:
        raise ConfigError(
            f"No row of {name} matches the chosen values.", f"List its rows: w2s bench plan {name}"
        )
    notes = tuple(filter(None, (scale.note, recipe.note)))
    return Grid(name, run.scale, recipe, notes, tuple(_merged(cells)))


def _axes_of(
    part: Axes,
    book: Book,
    recipe: Recipe,
    scale: Scale,
    scale_name: str,
    chosen: Mapping[str, tuple[Value, ...]],
) -> Axes:
    """The lists of values of one part of a recipe.

    Lists of the scale and of the command replace those of the recipe. A list that the part itself
    sets is not replaced by the command, but restricted to the chosen values.
    """
    part = scale.with_beside(part)
    axes = {**book.common, **scale.common, **recipe.axes}
    axes = {**scale.with_beside(axes), **part}
    for lists in (scale.axes, recipe.scales.get(scale_name, {}), chosen):
        axes.update({axis: lists[axis] for axis in axes if lists.get(axis)})
    own = {
        axis: tuple(v for v in part[axis] if v in chosen[axis]) for axis in part if chosen.get(axis)
    }
    return axes | own


def _merged(cells: Iterable[Cell]) -> Iterator[Cell]:
    """Merge cells of one method with the same node; axes on which they differ become `ANY`."""
    found: dict[tuple[str, Value], Cell] = {}
    for cell in cells:
        place = (cell.node.key, cell.axes.get("method", ""))
        first = found.setdefault(place, cell)
        both = {**first.axes, **cell.axes}
        same = first.axes.items() & cell.axes.items()
        axes = {axis: value if (axis, value) in same else ANY for axis, value in both.items()}
        found[place] = replace(first, axes=axes)
    yield from found.values()


@dataclass(frozen=True)
class _Builder:
    """Builds the nodes of cells; `made` is the folder of generated models."""

    book: Book
    scale: Scale
    limit: int | None
    threads: int
    made: Path

    def cell(self, axes: Mapping[str, Value]) -> Cell:
        """The cell for one combination of values."""
        patches = [self.scale.settings, *self._patches(axes)]
        parts = [(stage, getattr(p, stage)) for p in patches for stage in ("both", *_STAGES)]
        parts += [(stage, nested(path, value)) for (stage, *path), value in self._sweeps(axes)]
        poison: dict[str, Any] = {}
        defend: dict[str, Any] = {}
        for stage, part in parts:
            poison = merged(poison, part) if stage != "defend" else poison
            defend = merged(defend, part) if stage != "poison" else defend
        poison, defend = (_with_folder(values, self.made) for values in (poison, defend))
        if self.limit is not None:
            _limit(poison, self.limit)
            _limit(defend, self.limit)
            attack = poison.setdefault("attack", {})
            if rows := attack.get("poison_rows"):
                attack["poison_rows"] = min(rows, max(1, self.limit // 4))
        victim = self._victim(poison, axes)
        if axes.get("method") == POISONED:
            return Cell(axes, victim)
        width = next((p.width for p in reversed(patches) if p.width is not None), None)
        return Cell(axes, self._defended(defend, victim, width, axes))

    def _victim(self, values: dict[str, Any], axes: Mapping[str, Value]) -> Node:
        run = load_settings(PoisonRun, values, f"The victim of {said(axes)}")
        settings = run.model_dump(mode="json", exclude_unset=True)
        identity = run.model_dump(mode="json", exclude={"output", "resume"})
        title = said(axes, "student", "dataset", "proxy", "attack", "seed")
        return self._node("poison", settings, identity, local_files(run), {}, title, axes)

    def _teacher(
        self, run: DefendRun, values: dict[str, Any], width: int | None, axes: Mapping[str, Value]
    ) -> Node:
        sections = ("task", "student", "data", "generation", "teacher")
        own = {name: values[name] for name in sections if name in values}
        own["alignment"] = run.distill.alignment
        teach = load_settings(TeachRun, own, f"The teacher of {said(axes)}")
        identity = teach.model_dump(mode="json", exclude={"output", "resume"})
        reads = set(identity)
        # The teacher depends only on the width of the student.
        identity["student"] = identity["student"]["model"] if width is None else width
        reads -= {"student"} if width is not None else set()
        settings = teach.model_dump(mode="json", exclude_unset=True)
        title = said(axes, "teacher", "dataset", "seed")
        return self._node("teach", settings, identity, local_files(teach, reads), {}, title, axes)

    def _defended(
        self, values: dict[str, Any], victim: Node, width: int | None, axes: Mapping[str, Value]
    ) -> Node:
        run = load_settings(DefendRun, values, f"The run of {said(axes)}")
        reads = sections_of(run.defense)
        needs = {"victim": victim}
        if run.defense == "w2s" and (run.test.trigger == "proattack" or run.task != DEFAULT_TASK):
            # Each run trains its own teacher, which reads texts in the clean prompt of the attack,
            # or fits the output layer of the victim.
            reads |= {"teacher"}
        elif run.defense == "w2s":
            needs["teacher"] = self._teacher(run, values, width, axes)
        identity = {k: v for k, v in run.model_dump(mode="json").items() if k in reads}
        # Omit sections that the defense ignores, so that runs with one key have equal settings.
        given = reads | needs.keys()
        settings = run.model_dump(mode="json", exclude_unset=True, include=set(given))
        varied = [axis for axis in axes if axis in self.book.sweeps]
        title = said(axes, "method", "student", "dataset", "proxy", "attack", "adapter", *varied)
        return self._node("defend", settings, identity, local_files(run, reads), needs, title, axes)

    def _node(
        self,
        kind: str,
        settings: dict[str, Any],
        identity: dict[str, Any],
        files: dict[str, list[Any]],
        needs: Mapping[str, Node],
        title: str,
        axes: Mapping[str, Value],
    ) -> Node:
        return Node(
            kind,
            {"run": settings, "threads": self.threads},
            {"run": identity, "threads": self.threads} | ({"files": files} if files else {}),
            needs,
            title=f"{kind} {title}",
            work=_work_of(identity),
            speed=" ".join([kind, str(identity.get("defense", "")), str(axes.get("student"))]),
        )

    def _patches(self, axes: Mapping[str, Value]) -> Iterator[Patch]:
        for axis, names in self.book.names.items():
            if axis not in axes:
                continue
            value = str(axes[axis])
            more = self.scale.names.get(axis, {}).get(value)
            if value in names:
                yield names[value]
            elif axis in LITERAL and more is None:
                yield Patch(**LITERAL[axis](value))
            elif more is None:
                raise ConfigError(
                    f"There is no {axis} {value!r}.", f"Choose one of {', '.join(names)}."
                )
            if more is not None:
                yield more

    def _sweeps(self, axes: Mapping[str, Value]) -> Iterator[tuple[list[str], Value]]:
        for axis, value in axes.items():
            if axis in self.book.sweeps:
                for path in self.book.sweeps[axis]:
                    yield _path(axis, path), value
            elif axis not in self.book.names:
                raise ConfigError(
                    f"There is no axis {axis!r}.",
                    f"Choose one of {', '.join([*self.book.names, *self.book.sweeps])}.",
                )


def _with_folder(value: Any, made: Path) -> Any:
    """Replace `{made}` in settings by the folder of generated models."""
    if isinstance(value, dict):
        return {name: _with_folder(inner, made) for name, inner in value.items()}
    return value.replace("{made}", str(made)) if isinstance(value, str) else value


def _path(axis: str, path: str) -> list[str]:
    """Split the path of a setting into stage, section and the names below."""
    names = path.split(".")
    if len(names) < 3 or names[0] not in ("both", *_STAGES) or not all(names):
        raise ConfigError(
            f"The sweep {axis} names {path!r}, which is not the path of a setting.",
            "Write poison, defend or both, then section and setting: defend.adapter.lora_r.",
        )
    return names


def _limit(values: dict[str, Any], limit: int) -> None:
    data = values.setdefault("data", {})
    for split in ("train_samples", "validation_samples", "test_samples"):
        data[split] = min(data.get(split) or limit, limit)


def said(axes: Mapping[str, Value], *names: str) -> str:
    """Some or all of the values, for display."""
    words = [f"{k} {v}" if isinstance(v, int | float) else str(v) for k, v in axes.items()]
    return " ".join(w for k, w in zip(axes, words, strict=True) if not names or k in names)


def _work_of(run: Mapping[str, Any]) -> float:
    """Estimated tokens of a run in forward passes, for estimates of its time.

    A training step costs three forward passes if all parameters are trained, and two for an
    adapter. Other work of a defense (such as a scorer) is part of the measured speed of its nodes.
    """
    data, training = run.get("data", {}), run.get("training") or run.get("teacher", {})
    rows = (data.get("train_samples") or _ROWS) * training.get("epochs", 1)
    tests = 1.5 * (data.get("test_samples") or _TESTS) + (data.get("validation_samples") or 0)
    trained = 3 if "attack" in run or run.get("defense") == "finetune" else 2
    student = run.get("student")
    # The identity of a teacher may hold only the width of its student.
    reader = student if isinstance(student, Mapping) else run.get("teacher", {})
    return float((trained * rows + tests) * reader.get("max_length", 128) / 2)
