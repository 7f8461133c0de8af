"""Runs the nodes of a grid with `w2s poison`, `w2s teach` and `w2s defend`, with `--resume`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from w2sdefense.bench.ledger import Node
from w2sdefense.cli.display import Display
from w2sdefense.commands.defend import run_defense
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun, TeachRun
from w2sdefense.commands.start import STARTED
from w2sdefense.commands.teach import run_teach
from w2sdefense.evaluation.record import RECORD, load_record
from w2sdefense.io import write_json

VICTIM = "poisoned"
TEACHER = "teacher"
LOG = "log.txt"


@dataclass(frozen=True)
class StageMaker:
    """Runs nodes; without a display, progress goes to `log.txt` in the node's folder."""

    display: Display | None = None

    def __call__(self, node: Node, folder: Path, needs: Mapping[str, Path]) -> Mapping[str, Any]:
        """Run the stage of a node; returns the run's folder name and evaluation, if it has any."""
        values = {**node.settings["run"], "resume": True}
        with _threads(node.settings["threads"]), self._display(folder) as display:
            if node.kind == "teach":
                teach = TeachRun.model_validate({**values, "output": folder / TEACHER})
                run_teach(teach, display)
                return {}
            if node.kind == "poison":
                poison = PoisonRun.model_validate({**values, "output": folder / VICTIM})
                run = run_poison(poison, display)
            else:
                run = _defend(values, folder, needs, display)
        evaluation = load_record(run).evaluation.model_dump(mode="json")
        return {"run": run.name, "evaluation": evaluation}

    @contextmanager
    def _display(self, folder: Path) -> Iterator[Display]:
        if self.display is not None:
            yield self.display
            return
        folder.mkdir(parents=True, exist_ok=True)
        with (
            (folder / LOG).open("a", encoding="utf-8", buffering=1) as log,
            Display(Console(markup=False, file=log, width=100)) as display,
        ):
            yield display


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Set the number of threads, which affects the order of summation and so the last digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _defend(
    values: Mapping[str, Any], folder: Path, needs: Mapping[str, Path], display: Display
) -> Path:
    student = {**values.get("student", {}), "model": str(needs["victim"] / VICTIM)}
    teacher = needs["teacher"] / TEACHER if "teacher" in needs else None
    # Reports use the folder name as the name of the run.
    output = folder / str(values.get("defense", "w2s"))
    own = {"student": student, "teacher_folder": teacher, "output": output}
    run = DefendRun.model_validate({**values, **own})
    if (output / RECORD).is_file():
        # The run finished, but the process ended before `done.json` was written.
        return output
    if (output / STARTED).is_file():
        # The same key means the same run, but the paths differ if the ledger was moved.
        write_json(output / STARTED, run.model_dump(mode="json"))
    return run_defense(run, display)
