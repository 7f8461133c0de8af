"""`w2s bench`: show the graph of a grid, run it, show its table.

How a grid becomes a graph is in `grid.py`, how it runs in `launch.py` and `launch_ray.py`.
"""

from __future__ import annotations

import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2sdefense.bench.disk import explain_full_disk
from w2sdefense.bench.graph import Node
from w2sdefense.bench.grid import Grid, make_grid
from w2sdefense.bench.index import write_index
from w2sdefense.bench.launch import run_here, run_processes
from w2sdefense.bench.ledger import Done, Ledger
from w2sdefense.bench.nodes import StageMaker
from w2sdefense.bench.work import Event, Job
from w2sdefense.cli.display import Display
from w2sdefense.commands.reporting import PAGE, report_grid
from w2sdefense.config import BenchRun
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.io import make_folder
from w2sdefense.paper import published
from w2sdefense.report.grid import GridRow, GridTable


def run_bench(run: BenchRun, display: Display) -> None:
    """Make what is missing of a grid and write its table.

    Raises:
        W2SError: Some nodes failed; the table has the others.
    """
    grid, ledger = make_grid(run), Ledger(run.output)
    make_folder(ledger.folder)
    job = Job(grid.nodes, ledger, StageMaker(), session=uuid.uuid4().hex)
    tell = _Told(job, display)
    try:
        if run.launcher == "ray":
            from w2sdefense.bench.launch_ray import run_on_ray

            threads = max(int(node.settings["threads"]) for node in job.nodes)
            run_on_ray(job, run.ray, threads, tell)
        elif run.jobs > 1:
            run_processes(job, run.jobs, tell)
        else:
            here = Job(job.nodes, ledger, StageMaker(display), job.session)
            run_here(here, tell)
    finally:
        write_table(grid, ledger)


def write_table(grid: Grid, ledger: Ledger) -> GridTable:
    """Write the table of a grid from what is made of it, and the index of the ledger."""
    table = table_of(grid, ledger)
    with explain_full_disk(ledger.folder):
        table.write(_table_folder(grid, ledger))
    write_index(ledger)
    return table


def table_of(grid: Grid, ledger: Ledger) -> GridTable:
    """The table of a grid from what is made of it."""
    paper = published(grid.name)
    rows = []
    for cell in grid.cells:
        done, theirs = ledger.done(cell.node.key), paper.of(cell.axes)
        rows.append(
            GridRow(
                axes=cell.axes,
                evaluation=None if done is None else _evaluation(done),
                published=theirs.model_dump(include={"ca", "asr"}, exclude_none=True)
                if theirs
                else {},
                folder=None
                if done is None
                else ledger.folder_of(cell.node.key) / str(done.result["run"]),
            )
        )
    notes = [note for note in (grid.recipe.note, *paper.notes) if note]
    missing = sum(row.evaluation is None for row in rows)
    if missing:
        notes.append(f"{missing} of {len(rows)} rows have not been run yet.")
    return GridTable(f"{grid.name} {grid.scale}", grid.recipe.title, rows, notes)


def _table_folder(grid: Grid, ledger: Ledger) -> Path:
    return ledger.folder / f"{grid.name}-{grid.scale}"


def show_table(run: BenchRun, console: Console) -> None:
    """Print and write the table of a grid and its page, and say where its runs are."""
    grid, ledger = make_grid(run), Ledger(run.output)
    make_folder(_table_folder(grid, ledger))
    table = write_table(grid, ledger)
    console.print(table.terminal())
    folder = _table_folder(grid, ledger)
    if any(row.folder is not None for row in table.rows):
        with console.status("Drawing the page ..."):
            problems = report_grid(table, folder / PAGE)
        for problem in problems:
            console.print(f"Left out of the page: {problem}", soft_wrap=True)
    console.print(f"Written to {folder}; its runs:")
    for row in table.rows:
        if row.folder is not None:
            console.print(str(row.folder), highlight=False, soft_wrap=True)


def show_plan(run: BenchRun, console: Console) -> None:
    """Print the graph of a grid: what is made, what will be, and how long that may take."""
    grid, ledger = make_grid(run), Ledger(run.output)
    estimate = Estimate(ledger.all_done())
    table = Table(title=Text(f"{grid.recipe.title} ({grid.name} {grid.scale})"))
    for head in ("Node", "What", "Made from", "State", "Time"):
        table.add_column(head)
    todo = []
    for node in grid.nodes:
        done = ledger.done(node.key)
        seconds = estimate.of(node) if done is None else done.seconds
        if done is None:
            todo.append(node)
        table.add_row(
            node.key,
            Text(node.title),
            "\n".join(need.key for need in node.needs.values()),
            "done" if done else _state(ledger, node),
            _time(seconds, about=done is None),
        )
    console.print(table)
    console.print(_summary(len(grid.cells), len(grid.nodes), todo, estimate, run.jobs))


class Estimate:
    """How long nodes may take, from those that were made before.

    Args:
        done: Those.
    """

    def __init__(self, done: Sequence[Done]) -> None:
        self._seconds: dict[str, list[float]] = {}
        for made in done:
            self._seconds.setdefault(made.likeness, []).append(made.seconds)

    def of(self, node: Node) -> float | None:
        """Seconds that a node may take; None if nothing like it was made before."""
        found = self._seconds.get(node.likeness)
        return statistics.median(found) if found else None


def _summary(cells: int, nodes: int, todo: Sequence[Node], estimate: Estimate, jobs: int) -> str:
    known = [seconds for node in todo if (seconds := estimate.of(node)) is not None]
    text = f"{cells} rows need {nodes} nodes: {nodes - len(todo)} are made, {len(todo)} will be."
    if known:
        text += f" {len(known)} of these take about {_time(sum(known) / jobs)}"
        text += f" with {jobs} at a time." if jobs > 1 else "."
    if len(known) < len(todo):
        text += (
            f" Nothing like the other {len(todo) - len(known)} was made here before."
            if (known)
            else " Nothing like them was made here before, so their time is not known."
        )
    return text


def _state(ledger: Ledger, node: Node) -> str:
    owner = ledger.owner(node.key)
    if owner is not None:
        return f"runs on {owner.host}"
    return "failed, will run again" if ledger.failure(node.key) else "will run"


def _time(seconds: float | None, *, about: bool = False) -> str:
    if seconds is None:
        return "?"
    return ("about " if about else "") + str(timedelta(seconds=round(seconds)))


def _evaluation(done: Done) -> Evaluation:
    found: Mapping[str, object] = done.result["evaluation"]
    return Evaluation.model_validate(found)


class _Told:
    """Shows what the workers begin and finish.

    Args:
        job: What they work on.
        display: Where it is shown.
    """

    def __init__(self, job: Job, display: Display) -> None:
        self._display = display
        self._begun: dict[Node, float] = {}
        made = sum(job.ledger.done(node.key) is not None for node in job.nodes)
        if made:
            display.say(f"{made} of {len(job.nodes)} nodes are made already")
        self._advance = display.texts("nodes", len(job.nodes))
        if made:
            self._advance(made)

    def __call__(self, event: Event, node: Node) -> None:
        """Take notice of one event."""
        if event == "start":
            self._begun[node] = time.monotonic()
            self._display.say(f"{node.title} ({node.key})")
            return
        took = _time(time.monotonic() - self._begun.get(node, time.monotonic()))
        self._display.tidy()
        self._display.say(f"{node.title}: {event}, {took}")
        if event == "done":
            self._advance(1)
