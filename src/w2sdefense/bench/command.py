"""`w2s bench`: shows the graph of a grid, runs it, and shows its table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2sdefense.bench.grid import Grid, make_grids
from w2sdefense.bench.ledger import Done, Ledger, Node, in_order
from w2sdefense.bench.nodes import StageMaker
from w2sdefense.bench.runner import Event, Job, Tell, run_here, run_on_ray
from w2sdefense.bench.tiny import scale_files
from w2sdefense.cli.display import Display, print_json
from w2sdefense.commands.reporting import PAGE, report_grid
from w2sdefense.commands.runs import BenchRun
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.io import make_folder
from w2sdefense.paper import about_published, published
from w2sdefense.report.gate import numbers_of
from w2sdefense.report.grid import GridRow, GridTable
from w2sdefense.version import code_version


def run_bench(run: BenchRun, display: Display) -> None:
    """Run the missing nodes of the grids, and write their tables even if nodes fail."""
    ledger = Ledger(run.output)
    make_folder(ledger.folder)
    with scale_files(run):
        grids = make_grids(run)
        with_ray = run.jobs > 1 or run.ray.address is not None
        job = Job(nodes_of(grids), ledger, StageMaker(None if with_ray else display))
        job.tell = _told(job, display, run.jobs)
        try:
            if with_ray:
                run_on_ray(job, run.ray, run.jobs)
            else:
                run_here(job)
        finally:
            for grid in grids:
                write_table(grid, ledger)


def nodes_of(grids: Sequence[Grid]) -> list[Node]:
    """All nodes of the grids without duplicates, every node after the nodes that it needs."""
    return in_order(cell.node for grid in grids for cell in grid.cells)


def write_table(grid: Grid, ledger: Ledger) -> GridTable:
    """Write the table of a grid from the finished nodes."""
    table = table_of(grid, ledger)
    with ledger.explain_full_disk():
        table.write(_table_folder(grid, ledger))
    return table


def table_of(grid: Grid, ledger: Ledger) -> GridTable:
    """The table of a grid from the finished nodes."""
    paper = published(grid.name)
    rows, students, flaws = [], dict[str, None](), dict[str, None]()
    for cell in grid.cells:
        done, theirs = ledger.done(cell.node.key), paper.of(cell.axes)
        if theirs is not None and len(theirs.students) > 1:
            students |= dict.fromkeys(theirs.students)
        flaws |= dict.fromkeys(theirs.flaws if theirs else ())
        rows.append(
            GridRow(
                axes=cell.axes,
                evaluation=Evaluation.model_validate(done.result["evaluation"]) if done else None,
                published=theirs.numbers if theirs else {},
                folder=ledger.folder_of(cell.node.key) / str(done.result["run"]) if done else None,
                code=done.code if done else "",
                older=done is not None and done.code != code_version(),
            )
        )
    notes = [*grid.notes, *paper.notes]
    if students:
        notes.append(f"The paper's numbers are means over {', '.join(students)}.")
    if paper.rows:
        notes.append(about_published())
    notes += [f"The paper: {flaw}" for flaw in flaws]
    if any(row.evaluation is None for row in rows):
        missing = sum(row.evaluation is None for row in rows)
        notes.append(f"{missing} of {len(rows)} rows have not been run yet.")
    if any(row.older for row in rows):
        notes.append(
            f"{sum(row.older for row in rows)} rows were made by a version of the code other than "
            f"{code_version()}. To run them again, remove their folders and rerun the command."
        )
    return GridTable(f"{grid.name} {grid.scale}", grid.recipe.title, rows, notes)


def _table_folder(grid: Grid, ledger: Ledger) -> Path:
    return ledger.folder / f"{grid.name}-{grid.scale}"


def show_table(run: BenchRun, console: Console) -> None:
    """Print the tables of the grids, write tables and pages, and list the folders of the runs."""
    ledger = Ledger(run.output)
    make_folder(ledger.folder)
    with scale_files(run):
        grids = make_grids(run)
    tables = []
    for grid in grids:
        folder = _table_folder(grid, ledger)
        make_folder(folder)
        table = write_table(grid, ledger)
        tables.append(table.as_values())
        console.print(table.terminal())
        if any(row.folder is not None for row in table.rows):
            with console.status("Drawing the page ..."):
                problems = report_grid(table, folder / PAGE)
            for problem in problems:
                console.print(f"Left out of the page: {problem}", soft_wrap=True)
        console.print(f"Written to {folder}; its runs:")
        for row in table.rows:
            if row.folder is not None:
                console.print(str(row.folder), highlight=False, soft_wrap=True)
    if run.json_output:
        print_json(numbers_of("bench", tables=tables))


def show_plan(run: BenchRun, console: Console) -> None:
    """Print the nodes of the grids with their state, and an estimate of the remaining time."""
    with scale_files(run):
        grids, ledger = make_grids(run), Ledger(run.output)
    estimate = Estimate(ledger.all_done())
    names = ", ".join(f"{grid.recipe.title} ({grid.name} {grid.scale})" for grid in grids)
    table = Table(title=Text(names))
    for head in ("Node", "Title", "Needs", "State", "Time"):
        table.add_column(head)
    todo, nodes, listed = [], nodes_of(grids), []
    for node in nodes:
        done = ledger.done(node.key)
        failed = ledger.failure(node.key)
        seconds = estimate.of(node) if done is None else done.seconds
        if done is None:
            todo.append(node)
        listed.append({"node": node.key, "title": node.title, "done": done is not None})
        table.add_row(
            node.key,
            Text(node.title),
            "\n".join(need.key for need in node.needs.values()),
            "done" if done else "failed, will run again" if failed else "will run",
            in_words(seconds, about=done is None),
        )
    console.print(table)
    cells = sum(len(grid.cells) for grid in grids)
    console.print(
        f"{cells} rows need {len(nodes)} nodes: {len(nodes) - len(todo)} are done, {len(todo)} "
        f"will run.{estimate.said(todo, run.jobs)}"
    )
    if run.json_output:
        print_json(numbers_of("bench plan", nodes=listed))


class Estimate:
    """Estimates the time of nodes from the measured speed of finished ones."""

    def __init__(self, done: Sequence[Done]) -> None:
        found: dict[str, list[float]] = {}
        for made in done:
            if made.work:
                found.setdefault(made.speed, []).append(made.seconds / made.work)
        self._seconds = {name: statistics.median(each) for name, each in found.items()}

    def of(self, node: Node) -> float | None:
        """Estimated seconds of a node; None if no similar node has finished."""
        seconds = self._seconds.get(node.speed)
        return None if seconds is None else seconds * node.work

    def said(self, todo: Sequence[Node], jobs: int = 1) -> str:
        """The estimated time of some nodes, as a sentence that begins with a space."""
        known = [seconds for node in todo if (seconds := self.of(node)) is not None]
        text = ""
        if known:
            text += f" {len(known)} of these take about {in_words(sum(known) / jobs)}"
            text += f" with {jobs} at a time." if jobs > 1 else "."
        if len(known) < len(todo):
            text += (
                f" The time of the other {len(todo) - len(known)} is unknown: no similar node has "
                "finished here."
                if known
                else " Their time is unknown: no similar node has finished here."
            )
        return text


def in_words(seconds: float | None, *, about: bool = False) -> str:
    """Format seconds as hours, minutes and seconds."""
    if seconds is None:
        return "?"
    return ("about " if about else "") + str(timedelta(seconds=round(seconds)))


def _told(job: Job, display: Display, jobs: int) -> Tell:
    """Show the start and end of nodes, and from time to time an estimate of the remaining time."""
    todo = job.todo()
    made, last = len(job.nodes) - len(todo), time.monotonic()
    rest = Estimate(job.ledger.all_done()).said(todo, jobs)
    display.say(f"{made} of {len(job.nodes)} nodes are done already.{rest if todo else ''}")
    advance = display.texts("nodes", len(job.nodes))
    if made:
        advance(made)

    def tell(event: Event, node: Node) -> None:
        nonlocal last
        if event == "start":
            display.say(f"{node.title} ({node.key})")
            return
        done = job.ledger.done(node.key)
        display.tidy()
        took = "" if done is None else f", {in_words(done.seconds)}"
        problem = job.problems.get(node.key)
        display.say(f"{node.title}: {event}{took}{f': {problem}' if problem else ''}")
        if event == "done":
            advance(1)
        if time.monotonic() - last > _EVERY and (todo := job.todo()):
            last = time.monotonic()
            rest = Estimate(job.ledger.all_done()).said(todo, jobs)
            display.say(f"{len(todo)} nodes are left.{rest}")

    return tell


_EVERY = 600.0  # minimum seconds between two estimates
