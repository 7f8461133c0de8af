"""Output of the commands: progress of long phases, results, and errors.

Progress is a bar with the time left on a terminal, and an occasional line in a log file. An error
that the user can fix is shown in two lines; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from w2sdefense.errors import W2SError, printable

if TYPE_CHECKING:
    from w2sdefense.commands.runs import Answering
    from w2sdefense.training.trainer import StepProgress

EVERY_SECONDS = 20.0  # minimum time between two lines of progress in a log file
EXIT_CODE = 2  # exit code of an error, the same as for invalid flags
P = ParamSpec("P")
R = TypeVar("R")


class Display:
    """Shows the progress of phases, one per line; only the first process of a launcher prints."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(markup=False, quiet=not _is_first_process())
        self._bar = Progress(
            TextColumn("{task.description:<28}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self.console,
            disable=not self.console.is_terminal,
        )

    @classmethod
    def of(cls, run: Answering) -> Self:
        """The display of a command: on stderr if it answers in JSON on stdout."""
        if not run.json_output:
            return cls()
        return cls(Console(markup=False, stderr=True, quiet=not _is_first_process()))

    def __enter__(self) -> Self:
        # Imported here, because tables of finished runs do not need transformers.
        from w2sdefense.models.embedded import quiet_transformers

        self._stack = ExitStack()
        self._stack.enter_context(quiet_transformers())
        self._stack.enter_context(self._bar)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def steps(self, phase: str) -> StepProgress:
        """The function that shows the training steps of a phase."""
        show = self._phase(phase)

        def advance(step: int, steps: int, losses: dict[str, float]) -> None:
            show(step, steps, " ".join(f"{name} {value:.3f}" for name, value in losses.items()))

        return advance

    def texts(self, phase: str, total: int) -> Callable[[int], None]:
        """The function that shows progress, called with the number of newly answered texts."""
        show, done = self._phase(phase, total), 0

        def advance(more: int) -> None:
            nonlocal done
            done = min(done + more, total)
            show(done, total, "texts")

        return advance

    def _phase(self, phase: str, total: int | None = None) -> Callable[[int, int, str], None]:
        """A progress bar; without a terminal, a line every twenty seconds and at the end."""
        task = self._bar.add_task(phase, total=total, note="")
        start = last = time.monotonic()

        def show(done: int, total: int, note: str) -> None:
            nonlocal last
            self._bar.update(task, completed=done, total=total, note=note)
            now = time.monotonic()
            if not self.console.is_terminal and (now - last >= EVERY_SECONDS or done >= total):
                last = now
                left = (now - start) / max(done, 1) * (total - done)
                self.say(f"{phase}: {done}/{total}, {left:.0f} s left {note}")

        return show

    def tidy(self) -> None:
        """Remove the bars of finished phases; a grid has more phases than a screen has lines."""
        for task in self._bar.tasks:
            # A phase without a total never began, because its result already existed.
            if task.finished or task.total is None:
                self._bar.remove_task(task.id)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        # Triggers and paths may contain markup or terminal control characters.
        self._bar.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)


def _is_first_process() -> bool:
    # torchrun and `accelerate launch` set RANK; importing torch would take seconds.
    return os.environ.get("RANK", "0") == "0"


def show_results(folders: Sequence[Path], page: Path | None, title: str, run: Answering) -> None:
    """Print the results of a command, write its page, and exit according to `fail_on`."""
    if not _is_first_process():
        return
    from w2sdefense.report import load_runs, terminal_table, write_report
    from w2sdefense.report.gate import exit_code, outcome_of, result_of

    console = Console(markup=False, stderr=run.json_output)
    runs = load_runs(folders)
    console.print(terminal_table(runs))
    if page is not None:
        with console.status("Drawing the page ..."):
            write_report(runs, page, title)
        console.print(f"Look at it: {page}", highlight=False, soft_wrap=True)
    if run.json_output:
        command = type(run).__name__.removesuffix("Run").lower()
        print_json(result_of(command, runs, page))
    leave_with(exit_code(outcome_of(runs), getattr(run, "fail_on", None)))


def print_json(values: Mapping[str, Any]) -> None:
    """Print the JSON of a command on stdout."""
    typer.echo(json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False))


def leave_with(code: int) -> None:
    """Exit with a code, unless it is 0."""
    if code:
        raise SystemExit(code)


def show_report(
    paths: Sequence[Path], output: Path | None, title: str, exports: Sequence[str]
) -> None:
    """Write the page of some finished runs, print their table, and list omitted runs."""
    from w2sdefense.commands.reporting import make_report

    console = Console(markup=False)
    with console.status("Drawing the page ..."):
        report = make_report(paths, output, title, exports)
    console.print(report.table)
    for problem in report.problems:
        console.print(f"Left out: {problem}", style="yellow", soft_wrap=True)
    for file in report.exports:
        console.print(f"Written: {file}", highlight=False, soft_wrap=True)
    console.print(f"Look at it: {report.page}", highlight=False, soft_wrap=True)


def show_names() -> None:
    """Print every name that a command takes: tasks, attacks, defenses, data, models."""
    from w2sdefense.attacks import ATTACKS
    from w2sdefense.data import CATALOG, PROXIES
    from w2sdefense.defenses import DEFENSES
    from w2sdefense.models.embedded import EMBEDDED
    from w2sdefense.tasks import TASKS

    table = Table(show_header=False, box=None, pad_edge=False)
    for kind, names in (
        ("tasks", list(TASKS)),
        ("attacks", list(ATTACKS)),
        (
            "defenses",
            [f"{n} (needs {', '.join(d.needs)}; leaves {d.leaves})" for n, d in DEFENSES.items()],
        ),
        ("datasets", [f"{name} ({named.task})" for name, named in CATALOG.items()]),
        ("proxies of the paper", [f"{of} is poisoned on {by}" for of, by in PROXIES.items()]),
        ("embedded models", list(EMBEDDED)),
    ):
        table.add_row(Text(kind, style="bold"), "\n".join(names))
    Console(markup=False).print(table)


def run_or_explain(run: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command so that a `W2SError` is printed with its fix and exits with code 2."""

    @functools.wraps(run)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run(*args, **kwargs)
        except W2SError as error:
            _print(error)
            raise SystemExit(EXIT_CODE) from None

    return explained


def _print(error: W2SError) -> None:
    # Soft wrap, because a path or command that is broken over two lines cannot be copied.
    console = Console(markup=False, stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.problem))
    console.print(Text.assemble(("Fix: ", "bold green"), error.fix))
