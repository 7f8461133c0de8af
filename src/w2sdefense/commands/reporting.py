"""`w2s report`: finds and reads finished runs, and writes one page about them with their table.

A path is the folder of a run, or a folder with runs somewhere below it (a ledger, or the output of
several commands). A run that is named directly must be readable; broken runs below a folder are
left out, and the page lists them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.table import Table

from w2sdefense.bench.grid import said
from w2sdefense.bench.ledger import title_of
from w2sdefense.commands.runs import DefendRun
from w2sdefense.errors import ConfigError, DataError
from w2sdefense.evaluation.record import FEATURES, RECORD, Record, load_record
from w2sdefense.io import make_folder
from w2sdefense.models.checkpoint import resolve
from w2sdefense.report import load_runs, terminal_table, write_report
from w2sdefense.report.card import Cleaning, write_card
from w2sdefense.report.charts import RUN_COLORS
from w2sdefense.report.grid import GridRow, GridTable
from w2sdefense.report.hub import push_model
from w2sdefense.report.runs import (
    TITLES,
    Run,
    attacked_with,
    axes_of,
    distinct_axes,
    load_run,
    unique,
    with_features,
)

PAGE = "report.html"


def finish_defense(run: DefendRun, before: Path, after: Path) -> list[str]:
    """Write the model card of a finished defense, and upload the model if the run asks for it.

    Returns:
        Lines for the user that say what was done.
    """
    settings = run.model_dump(mode="json", exclude_defaults=True, exclude={"output", "resume"})
    sources = [each.folder for each in resolve(run.student.model, run.student.base).parts]
    cleaning = Cleaning(load_record(before), load_record(after), settings, sources)
    cards = write_card(after, cleaning)
    lines = [f"Model card: {cards[0]}"] if cards else []
    if run.push_to_hub:
        address = push_model(after, run.push_to_hub, cleaning)
        lines.append(f"Uploaded: {address}")
    return lines


MAX_MAPS = 12  # maximum feature maps on a page; each takes seconds and 100 KB


@dataclass(frozen=True)
class Report:
    """The files of a report, and its table for the terminal."""

    page: Path
    exports: tuple[Path, ...]  # the table in other formats
    table: Table
    problems: tuple[str, ...]  # the runs that were left out, and why


def make_report(
    paths: Sequence[Path],
    output: Path | None = None,
    title: str = "w2sdefense",
    exports: Iterable[str] = (),
) -> Report:
    """Write the page of some runs, and their table in other formats.

    A few runs that are named directly and have the same test are compared: the first is the suspect
    model, and the headline is about the last. Any other runs are shown as a collection. The page is
    by default `report.html` next to the first run, or in the first folder of runs; `exports` are
    formats of `report.grid.FORMATS`.

    Raises:
        ConfigError: The page cannot be written to its place.
        DataError: A path has no finished run, or a directly named run cannot be read.
    """
    page = _page_of(paths, output)
    folders = find_folders(paths)
    make_folder(page.parent)
    named = [path for path in paths if _is_run(path)]
    problems: list[str] = []
    if len(named) == len(paths) and _are_a_story(folders):
        runs = load_runs(folders)
        table = _table_of(runs, title, problems)
        write_report(runs, page, title)
        shown = terminal_table(runs)
    else:
        runs = _in_order(_load(_titled(folders), named, problems))
        table = _table_of(runs, title, problems)
        write_collection(runs, page, table)
        shown = table.terminal()
    exported = tuple(table.export(page.with_suffix(""), form) for form in exports)
    return Report(page, exported, shown, tuple(problems))


def report_grid(table: GridTable, page: Path) -> tuple[str, ...]:
    """Write the page of a grid from the runs of its rows; returns the problems of omitted runs."""
    problems: list[str] = []
    titles: dict[Path, str] = {}
    for row in table.rows:
        if row.folder is not None:
            title = said(row.axes, *table.varied)
            titles.setdefault(row.folder, unique(title, set(titles.values())))
    runs = _load(titles, (), problems) if titles else []
    if runs:
        notes = [*table.notes, *(f"Left out: {problem}" for problem in problems)]
        write_collection(runs, page, replace(table, notes=notes))
    return tuple(problems)


def write_collection(runs: Sequence[Run], page: Path, table: GridTable) -> None:
    """Write the page of many runs, with feature maps of the first `MAX_MAPS` that have features."""
    drawn = [run.folder for run in runs if (run.folder / FEATURES).is_file()]
    notes, featured = list(table.notes), []
    for run in runs:
        try:
            featured.append(with_features(run) if run.folder in drawn[:MAX_MAPS] else run)
        except DataError as error:
            notes.append(f"Without a map: {error.problem}")
            featured.append(run)
    if len(drawn) > MAX_MAPS:
        notes.append(f"Feature maps are drawn for the first {MAX_MAPS} of {len(drawn)} runs.")
    write_report(featured, page, table.title, replace(table, notes=notes))


def find_folders(paths: Iterable[Path]) -> list[Path]:
    """The folders of all finished runs at or below some paths."""
    found: dict[Path, None] = {}
    for path in paths:
        below = [path] if _is_run(path) else sorted(p.parent for p in path.rglob(RECORD))
        if not below:
            problem = "is not a folder" if not path.is_dir() else "holds no finished run"
            raise DataError(
                f"{path} {problem}: there is no {RECORD} in it or anywhere below it.",
                "Name folders of runs, a folder that has some below it, or that of a grid "
                "(runs/bench).",
            )
        found.update(dict.fromkeys(below))
    return list(found)


def _is_run(path: Path) -> bool:
    return (path / RECORD).is_file()


def _page_of(paths: Sequence[Path], output: Path | None) -> Path:
    if output is None:
        first = paths[0].resolve()
        return (first.parent if _is_run(first) else first) / PAGE
    if output.is_dir():
        raise ConfigError(f"{output} is a folder.", f"Name a file: {output / PAGE}")
    return output


def _are_a_story(folders: Sequence[Path]) -> bool:
    """Whether runs can be shown as before and after: a suspect, and models made from it."""
    records = [load_record(folder) for folder in folders]
    alike = len({attacked_with(record) for record in records}) == 1
    return alike and records[0].stage != "defend" and len(records) <= RUN_COLORS


def _titled(folders: Sequence[Path]) -> dict[Path, str]:
    """Titles of runs: grid nodes by their settings, others by their path below a common folder."""
    top = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    titles: dict[Path, str] = {}
    for folder in folders:
        place = folder.resolve().relative_to(top).as_posix()
        title = title_of(folder) or TITLES.get(place, place)
        titles[folder] = unique(title, set(titles.values()))
    return titles


def _load(titles: Mapping[Path, str], named: Sequence[Path], problems: list[str]) -> list[Run]:
    """Read runs; an unreadable run becomes a problem, or an error if it was named directly."""
    runs = []
    for folder, title in titles.items():
        try:
            runs.append(load_run(folder, load_record(folder), title))
        except DataError as error:
            if folder in named:
                raise
            problems.append(error.problem)
    if not runs:
        raise DataError(
            f"None of the {len(titles)} runs can be read: {problems[0]}",
            "Rerun the commands that wrote them.",
        )
    return _with_origins(runs)


def _with_origins(runs: Sequence[Run]) -> list[Run]:
    """Add to each run the record of the model that it started from, if there is one.

    Settings name that model by its folder. If the runs were moved since then, the model is matched
    to one of them by the last two parts of its path.
    """
    moved: dict[tuple[str, ...], list[Record]] = {}
    for run in runs:
        moved.setdefault(run.folder.resolve().parts[-2:], []).append(run.record)

    def origin(record: Record) -> Record | None:
        model = Path(str(record.config.get("student", {}).get("model", "")))
        if _is_run(model):
            try:
                return load_record(model)
            except DataError:
                return None
        near = moved.get(model.parts[-2:], [])
        return near[0] if len(near) == 1 else None

    return [replace(run, origin=origin(run.record)) for run in runs]


def _in_order(runs: Sequence[Run]) -> list[Run]:
    """Sort runs by student, dataset and attack, suspect models first, then by method."""
    methods = list(TITLES)

    def place(run: Run) -> tuple[object, ...]:
        axes = axes_of(run)
        method = str(axes["method"])
        known = methods.index(method) if method in methods else len(methods)
        where = (str(axes.get(axis, "")) for axis in ("student", "dataset", "attack"))
        return *where, run.record.stage == "defend", known, run.title

    return sorted(runs, key=place)


def _table_of(runs: Sequence[Run], title: str, problems: Sequence[str]) -> GridTable:
    axes = [{"run": run.title, **axes_of(run)} for run in runs]
    names = distinct_axes(axes)
    rows = [
        GridRow(
            axes={name: each[name] for name in names if name in each},
            evaluation=run.record.evaluation,
            published={},
            folder=run.folder,
        )
        for run, each in zip(runs, axes, strict=True)
    ]
    notes = [f"Left out: {problem}" for problem in problems]
    return GridTable(f"{len(runs)} runs", title, rows, notes)
