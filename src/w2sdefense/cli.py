"""The command `w2s`.

A command is added with `app.command()(command_from(ItsSettings, what_it_does))`; what it does
imports its stages itself, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from w2sdefense.cli_errors import run_or_explain
from w2sdefense.cli_options import command_from
from w2sdefense.errors import ConfigError
from w2sdefense.run_config import DefendRun, DemoRun, EvaluateRun, PoisonRun, TeachRun

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


def _print_version(wanted: bool) -> None:
    if wanted:
        Console().print(f"w2sdefense {version('w2sdefense')}", highlight=False)
        raise typer.Exit


@app.callback()
def w2s(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Remove backdoors from language models, and show that they are gone."""


def demo(run: DemoRun) -> None:
    """Watch SmolLM2-135M catch a backdoor, keep it through LoRA, and lose it to W2SDefense."""
    from w2sdefense.experiments.demo import run_demo
    from w2sdefense.experiments.display import Display, show_results

    with Display() as display:
        folders = run_demo(run, display)
    show_results(folders, run.output / "report.html", "A backdoor planted, and removed")


def poison(run: PoisonRun) -> None:
    """Plant a backdoor into a model that you own, so that defenses can be measured on it."""
    from w2sdefense.experiments.display import Display, show_results
    from w2sdefense.experiments.stages import run_poison

    with Display() as display:
        folder = run_poison(run, display)
    show_results([folder], None, "Poisoned model")


def teach(run: TeachRun) -> None:
    """Fine-tune a clean teacher for a student and keep it for later runs of defend."""
    from w2sdefense.experiments.display import Display
    from w2sdefense.experiments.stages import run_teach

    with Display() as display:
        run_teach(run, display)
        display.say(f"Teacher in {run.output}; use it with --teacher-folder {run.output}")


def defend(run: DefendRun) -> None:
    """Clean a model with the clean data that you have; report CA and ASR before and after."""
    from w2sdefense.experiments.display import Display, show_results
    from w2sdefense.experiments.stages import run_defend

    with Display() as display:
        folders = run_defend(run, display)
    show_results(folders, run.output / "report.html", f"{run.student.model}, before and after")


def evaluate(run: EvaluateRun) -> None:
    """Measure a model: clean accuracy, and with a trigger ASR and the floor without it."""
    from w2sdefense.experiments.display import Display, show_results
    from w2sdefense.experiments.stages import run_evaluate

    with Display() as display:
        folder = run_evaluate(run, display)
    show_results([folder], run.output / "report.html", run.student.model)


@run_or_explain
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs, in this order.")],
    output: Annotated[Path, typer.Option(help="Where the page goes.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "w2sdefense",
) -> None:
    """Make one self-contained page of finished runs."""
    if output.is_dir():
        raise ConfigError(f"{output} is a folder.", f"Name a file: {output / 'report.html'}")
    from w2sdefense.experiments.display import show_results

    show_results(runs, output, title)


@run_or_explain
def pair(
    originals: Annotated[Path, typer.Argument(help="File with the texts that were paraphrased.")],
    paraphrases: Annotated[Path, typer.Argument(help="File with the paraphrases, in that order.")],
    output: Annotated[Path, typer.Option(help="JSONL file to write, for --syn-file.")],
) -> None:
    """Bring texts and paraphrases of them that were published without them together."""
    from w2sdefense.attacks.paraphrase_file import pair_files

    count = pair_files(originals, paraphrases, output)
    Console().print(f"{count} pairs in {output}; use them with --syn-file", highlight=False)


@run_or_explain
def ls() -> None:
    """List the attacks, defenses, datasets, proxies and embedded models there are."""
    from w2sdefense.experiments.display import show_names

    show_names()


app.command()(command_from(DemoRun, demo))
app.command()(command_from(PoisonRun, poison))
app.command()(command_from(TeachRun, teach))
app.command()(command_from(DefendRun, defend))
app.command()(command_from(EvaluateRun, evaluate))
app.command()(report)
app.command()(pair)
app.command()(ls)


def main() -> None:
    """Entry point of the command line."""
    app()
