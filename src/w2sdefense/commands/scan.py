"""`w2s scan`: is there a backdoor, and what fires it?

A teacher is fitted (or opened) on the clean data, the suspect model is searched beside it, and what
was found is written to `suspects.json` and shown. Nothing is trained on it; `w2s defend` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2sdefense.cli.display import Display, print_json
from w2sdefense.commands.inputs import open_victim
from w2sdefense.commands.runs import ScanRun
from w2sdefense.distill.fit_teacher import LabelTeacherJob, fit_or_load_teacher
from w2sdefense.distill.targets import doubt_about, teacher_targets
from w2sdefense.io import make_folder, write_json
from w2sdefense.report.gate import Finding, exit_code, sarif, scan_result
from w2sdefense.scan.origin import check_origin, origin_hint
from w2sdefense.scan.search import Suspect, ranked
from w2sdefense.scan.victim import SUSPECTS, save_suspects, scan_victim
from w2sdefense.training.trainer import this_process

SHOWN = 12
"""Rows of the table."""

FIRES, PULLS = 0.9, 6.0
"""Share of the texts that a piece flips, and nats that it pulls beyond what the teacher feels, from
which it is called a trigger. See docs/LOG.md for what triggers and other pieces reach."""


def run_scan(run: ScanRun, display: Display) -> tuple[list[Suspect], tuple[str, ...]]:
    """Search a model, and write what was found.

    Returns:
        The suspects of every label, and the names of the labels.
    """
    check_origin(run.student, run.scan)
    if hint := origin_hint(run.student, run.scan, "--fine-tuned-from"):
        display.say(hint)
    make_folder(run.output)
    victim, data = open_victim(run.student, run.data)
    folder = run.teacher_folder or run.output / "teacher"
    teacher = fit_or_load_teacher(
        LabelTeacherJob(run.teacher, data, victim.width),
        folder,
        run_folder=run.output,
        resume=run.resume,
        progress=display.steps("teacher"),
    )
    doubt = doubt_about(
        teacher_targets(teacher, data.validation, run.output / "targets"), data.validation
    )
    if doubt:
        display.say(f"Warning: {doubt}.")
    suspects = scan_victim(
        victim, teacher, data, run.scan, run.scan_seed, folder, display.steps("scan")
    )
    if this_process().is_main_process:
        save_suspects(run.output, suspects, victim.label_names)
    return suspects, victim.label_names


def finish_scan(suspects: Sequence[Suspect], names: Sequence[str], run: ScanRun) -> int:
    """Show what was found, as the settings ask for it.

    Returns:
        The exit code.
    """
    found = [
        Finding(s.piece, names[s.target], s.flips, s.texts, s.suspicion) for s in firing(suspects)
    ]
    result = scan_result(run.student.model, found, verdict(suspects, names))
    if this_process().is_main_process:
        if run.sarif is not None:
            write_json(run.sarif, sarif(run.student.model, found))
        if run.json_output:
            print_json(result)
        else:
            show_suspects(suspects, names, run.output)
    return exit_code(result["outcome"], run.fail_on)


def firing(suspects: Sequence[Suspect]) -> list[Suspect]:
    """The pieces that act like a trigger."""
    return [s for s in suspects if s.flips >= FIRES * s.texts and s.suspicion >= PULLS]


def show_suspects(suspects: Sequence[Suspect], names: Sequence[str], folder: Path) -> None:
    """Print the most suspicious pieces, and what they mean."""
    if not this_process().is_main_process:
        return
    table = Table("Piece", "Answer", "Flips", "Pull", "Teacher")
    for suspect in ranked(suspects)[:SHOWN]:
        table.add_row(
            Text(suspect.piece),
            names[suspect.target],
            f"{suspect.flips}/{suspect.texts}",
            f"{suspect.pull:+.1f}",
            f"{suspect.teacher_pull:+.1f}",
        )
    console = Console(markup=False)
    console.print(table)
    console.print(verdict(suspects, names), soft_wrap=True)
    console.print(f"All of them: {folder / SUSPECTS}", highlight=False, soft_wrap=True)


def verdict(suspects: Sequence[Suspect], names: Sequence[str]) -> str:
    """What the suspects say, in a sentence or two."""
    found = firing(suspects)
    if not found:
        return (
            "No piece acts like a trigger. That is no proof: one that resembles nothing that was "
            "tried is not found. Knowing what the model was fine-tuned from helps "
            "(--fine-tuned-from)."
        )
    targets = sorted({names[suspect.target] for suspect in found})
    return (
        f"{len(found)} pieces act like a trigger: they turn nearly any text to "
        f"{' or '.join(targets)}, and a clean teacher does not follow. Clean the model: w2s defend."
    )
