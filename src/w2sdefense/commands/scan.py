"""`w2s scan`: searches a model for a backdoor and its trigger.

Fits (or opens) a teacher on the clean data, searches the suspect with it, writes the result to
`candidates.json`, and shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2sdefense.cli.display import Display, print_json
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import ScanRun, teacher_folder_of
from w2sdefense.commands.start import open_victim
from w2sdefense.data import texts_of
from w2sdefense.distill.fit_teacher import LabelTeacherJob, fit_or_load_teacher
from w2sdefense.distill.targets import answer_texts, doubt_about
from w2sdefense.io import write_json
from w2sdefense.report.gate import Finding, Outcome, exit_code, sarif, scan_result
from w2sdefense.scan.search import ScanResult, acting, ranked, triggers
from w2sdefense.scan.victim import CANDIDATES, save_candidates, scan_victim
from w2sdefense.training.trainer import this_process

SHOWN = 12  # rows of the table
LIKELY = 0.95  # report the weakest trigger that is found with at least this probability


@stage
def run_scan(run: ScanRun, display: Display) -> tuple[ScanResult, tuple[str, ...]]:
    """Search a model and write the result; returns it with the names of the labels."""
    victim, data = open_victim(run)
    folder = teacher_folder_of(run)
    teacher = fit_or_load_teacher(
        LabelTeacherJob(run.teacher, data, victim.width),
        folder,
        run_folder=run.output,
        resume=run.resume,
        progress=display.steps("teacher"),
    )
    said = answer_texts(teacher, texts_of(data.validation))
    if doubt := doubt_about(said, data.validation):
        display.say(f"Warning: {doubt}.")
    result = scan_victim(
        victim, teacher, data, run.scan, run.scan_seed, folder, display.steps("scan"), display.say
    )
    if this_process().is_main_process:
        save_candidates(run.output, result, victim.label_names)
    return result, victim.label_names


def finish_scan(result: ScanResult, names: Sequence[str], run: ScanRun) -> int:
    """Show the result in the format that the settings ask for; returns the exit code."""
    found = [
        Finding(c.text, names[c.outcome], c.flips, c.texts, c.excess) for c in triggers(result)
    ]
    said = verdict(result, names, run.output)
    answer = scan_result(run.student.model, found, said, outcome_of(result))
    if this_process().is_main_process:
        if run.sarif is not None:
            write_json(run.sarif, sarif(run.student.model, found))
        if run.json_output:
            print_json(answer)
        else:
            show_scan(result, names, run.output)
    return exit_code(answer["outcome"], run.fail_on)


def outcome_of(result: ScanResult) -> Outcome:
    """The outcome of a search for pipelines, see `report/gate.py`."""
    if triggers(result):
        return "alive"
    return "suspect" if acting(result) else "clean"


def show_scan(result: ScanResult, names: Sequence[str], folder: Path) -> None:
    """Print the best candidates, what they mean, and what was tried."""
    table = Table("Candidate", "Label", "Flips", "Shift", "Teacher")
    for candidate in ranked(result.candidates)[:SHOWN]:
        table.add_row(
            Text(candidate.text),
            names[candidate.outcome],
            f"{candidate.flips}/{candidate.texts}",
            f"{candidate.shift:+.1f}",
            f"{candidate.teacher_shift:+.1f}",
        )
    console = Console(markup=False)
    console.print(table)
    for line in (verdict(result, names, folder), coverage(result)):
        console.print(line, soft_wrap=True)
    console.print(f"All of them: {folder / CANDIDATES}", highlight=False, soft_wrap=True)


def verdict(result: ScanResult, names: Sequence[str], folder: Path) -> str:
    """The result of a search in words."""
    found = triggers(result)
    if not found and acting(result):
        return (
            "Text was found that acts like a trigger, but the other labels have candidates about "
            "as strong. Either the teacher knows less than the model, or every label has a "
            "backdoor: give the teacher more clean text."
        )
    if not found:
        return (
            "No candidate acts like a trigger. That is no proof: a trigger that is neither in the "
            "list nor near it is not found. Naming the base model helps (--fine-tuned-from)."
        )
    labels = sorted({names[candidate.outcome] for candidate in found})
    return (
        f"{len(found)} candidates act like a trigger: they turn nearly any text to "
        f"{' or '.join(labels)}, and a clean teacher does not follow. Unlearn them: w2s defend "
        f"--decoys-found {folder}"
    )


def coverage(result: ScanResult) -> str:
    """What was tried, and how strong a trigger in the list must be to be found."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.listed.items() if count)
    tried = f"Tried: {result.tries[0]:,} candidates ({kinds}), all of them in groups"
    likely = [nats for nats, chance in result.power.items() if chance >= LIKELY]
    if not likely:
        return f"{tried}. No strength of a trigger is sure to be noticed: use smaller groups."
    return (
        f"{tried}; one that shifts the log-odds of a group by {min(likely)} nats is noticed with a "
        f"chance of {100 * result.power[min(likely)]:.0f} %."
    )
