"""The command `w2s`. Commands import their stages late, so that `--help` need not load torch."""

from __future__ import annotations

from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from w2sdefense.cli.display import run_or_explain
from w2sdefense.cli.options import add_command
from w2sdefense.commands.runs import (
    BenchRun,
    DefendRun,
    DemoRun,
    EvaluateRun,
    PoisonRun,
    ScanRun,
    TeachRun,
    TuneRun,
)


class TableFormat(StrEnum):
    """Export formats of the table of `w2s report`."""

    LATEX = "latex"
    CSV = "csv"
    MARKDOWN = "markdown"


app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console(markup=False).print(f"w2sdefense {version('w2sdefense')}", highlight=False)
        raise typer.Exit


@app.callback()
def w2s(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Remove backdoors from language models, and show that they are gone."""


def demo(run: DemoRun) -> None:
    """Plant a backdoor in SmolLM2-135M, show that it survives LoRA, and remove it."""
    from w2sdefense.cli.display import Display, show_results
    from w2sdefense.commands.demo import run_demo

    with Display.of(run) as display:
        folders = run_demo(run, display)
    show_results(folders, run.output / "report.html", "A backdoor planted, and removed", run)


def poison(run: PoisonRun) -> None:
    """Plant a backdoor into a model that you own, so that defenses can be measured on it."""
    from w2sdefense.cli.display import Display, show_results
    from w2sdefense.commands.poison import run_poison

    with Display.of(run) as display:
        folder = run_poison(run, display)
    show_results([folder], None, "Poisoned model", run)


def teach(run: TeachRun) -> None:
    """Fine-tune a clean teacher for a student and keep it for later runs of defend."""
    from w2sdefense.cli.display import Display
    from w2sdefense.commands.teach import run_teach

    with Display() as display:
        run_teach(run, display)
        display.say(f"Teacher in {run.output}; use it with --teacher-folder {run.output}")


def defend(run: DefendRun) -> None:
    """Clean a model with your clean data; report CA and ASR before and after."""
    from w2sdefense.cli.display import Display, show_results
    from w2sdefense.commands.defend import run_defend
    from w2sdefense.commands.reporting import finish_defense
    from w2sdefense.report.hub import check_push

    if run.push_to_hub:
        check_push(run.push_to_hub)
    with Display.of(run) as display:
        folders = run_defend(run, display)
        for line in finish_defense(run, *folders):
            display.say(line)
    show_results(folders, run.output / "report.html", f"{run.student.model}, before and after", run)


def evaluate(run: EvaluateRun) -> None:
    """Measure clean accuracy (CA); with a trigger, also ASR and its floor."""
    from w2sdefense.cli.display import Display, show_results
    from w2sdefense.commands.evaluate import run_evaluate

    with Display.of(run) as display:
        folder = run_evaluate(run, display)
    show_results([folder], run.output / "report.html", run.student.model, run)


def bench_plan(run: BenchRun) -> None:
    """Show the nodes of a grid, their state, and an estimate of the remaining time."""
    from w2sdefense.bench.command import show_plan

    show_plan(run, Console(markup=False, stderr=run.json_output))


def bench_run(run: BenchRun) -> None:
    """Run the missing nodes of a grid, and show its table."""
    from w2sdefense.bench.command import run_bench, show_table
    from w2sdefense.cli.display import Display

    with Display.of(run) as display:
        run_bench(run, display)
    show_table(run, Console(markup=False, stderr=run.json_output))


def bench_show(run: BenchRun) -> None:
    """Show the table of a grid from its finished nodes."""
    from w2sdefense.bench.command import show_table

    show_table(run, Console(markup=False, stderr=run.json_output))


def scan(run: ScanRun) -> None:
    """Search a model for triggers of a backdoor, with clean text and a teacher."""
    from w2sdefense.cli.display import Display, leave_with
    from w2sdefense.commands.scan import finish_scan, run_scan

    with Display.of(run) as display:
        result, names = run_scan(run, display)
    leave_with(finish_scan(result, names, run))


def tune(run: TuneRun) -> None:
    """Choose the settings of W2SDefense on clean data, without a known trigger."""
    from w2sdefense.cli.display import Display
    from w2sdefense.commands.tune import run_tune, show_tuned

    with Display.of(run) as display:
        tuned = run_tune(run, display)
    show_tuned(tuned, run)


@run_or_explain
def play(
    run: Annotated[Path, typer.Argument(help="Folder of a finished w2s defend.")],
    port: Annotated[
        int | None, typer.Option(help="Port; default: the first free one from 7860.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Try the suspect and the cleaned model side by side, in a browser on this machine.

    Type a text, add a trigger, and see both answers and the effect of every word.
    """
    from w2sdefense.cli.display import Display
    from w2sdefense.play.page import import_gradio, serve
    from w2sdefense.play.pair import open_pair

    import_gradio()  # fails before any model is opened if gradio is not installed
    with Display() as display:
        display.say("Opening both models ...")
        pair = open_pair(run)
    serve(pair, port, open_browser=browser)


@run_or_explain
def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of finished runs, or folders that contain such folders (runs/bench)."
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="File for the page; default: report.html beside the first run, or in the first "
            "folder of runs."
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "w2sdefense",
    export: Annotated[
        list[TableFormat] | None,
        typer.Option(help="Also write the table in this format; may be given more than once."),
    ] = None,
) -> None:
    """Write one self-contained page on finished runs: tables, charts, texts, provenance.

    Runs of a suspect and of its defenses are compared as before and after, with the last one in the
    headline. Other runs become a table.
    """
    from w2sdefense.cli.display import show_report

    show_report(runs, output, title, export or ())


@run_or_explain
def ls() -> None:
    """List the tasks, attacks, defenses, datasets, proxies and embedded models."""
    from w2sdefense.cli.display import show_names

    show_names()


@run_or_explain
def doctor() -> None:
    """Show the installed packages, this machine's resources, and the cost of a first run."""
    from w2sdefense.commands.doctor import show_doctor

    if not show_doctor(Console()):
        raise typer.Exit(1)


add_command(app, DemoRun, demo)
add_command(app, PoisonRun, poison)
add_command(app, TeachRun, teach)
add_command(app, DefendRun, defend)
add_command(app, EvaluateRun, evaluate)
bench = typer.Typer(no_args_is_help=True, help="Run the tables of the paper, or grids of your own.")
add_command(bench, BenchRun, bench_plan, "plan")
add_command(bench, BenchRun, bench_run, "run")
add_command(bench, BenchRun, bench_show, "show")
app.add_typer(bench, name="bench")
add_command(app, ScanRun, scan)
add_command(app, TuneRun, tune)
app.command()(play)
app.command()(report)
app.command()(ls)
app.command()(doctor)


def main() -> None:
    """Entry point of the command line."""
    app()
