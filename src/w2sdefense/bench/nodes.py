"""How the nodes of a grid are made: by the stages that the commands run, too.

Nothing is done here that `w2s poison`, `w2s teach` and `w2s defend` would not do. Resuming, and the
record of a run, are theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from w2sdefense.bench.graph import Node
from w2sdefense.commands.runs import DefendRun, PoisonRun, TeachRun
from w2sdefense.io import write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from w2sdefense.cli.display import Display

VICTIM = "poisoned"
TEACHER = "teacher"
LOG = "log.txt"


@dataclass(frozen=True)
class StageMaker:
    """Makes nodes.

    Attributes:
        display: Shows the progress; without one it is written to `log.txt` in the node's folder.
    """

    display: Display | None = None

    def __call__(self, node: Node, folder: Path, needs: Mapping[str, Path]) -> Mapping[str, Any]:
        """Run the stage of a node.

        Returns:
            The evaluation of a model, and the folder with its record; of a teacher nothing.
        """
        with _threads(node.settings["threads"]), self._display(folder) as display:
            return _MAKERS[node.kind](node.settings["run"], folder, needs, display)

    @contextmanager
    def _display(self, folder: Path) -> Iterator[Display]:
        from w2sdefense.cli.display import Display

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
    """Compute with a number of threads, since more of them add up numbers in another order.

    Whoever runs a grid in a process of their own gets theirs back.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _poison(
    values: Mapping[str, Any], folder: Path, needs: Mapping[str, Path], display: Display
) -> Mapping[str, Any]:
    from w2sdefense.commands.poison import run_poison

    run = PoisonRun.model_validate({**values, "output": folder / VICTIM, "resume": True})
    return _measured(run_poison(run, display))


def _teach(
    values: Mapping[str, Any], folder: Path, needs: Mapping[str, Path], display: Display
) -> Mapping[str, Any]:
    from w2sdefense.commands.teach import run_teach

    run_teach(
        TeachRun.model_validate({**values, "output": folder / TEACHER, "resume": True}), display
    )
    return {}


def _defend(
    values: Mapping[str, Any], folder: Path, needs: Mapping[str, Path], display: Display
) -> Mapping[str, Any]:
    from w2sdefense.commands.defend import run_defense
    from w2sdefense.commands.folders import STARTED
    from w2sdefense.evaluation.record import RECORD

    student = {**values.get("student", {}), "model": str(needs["victim"] / VICTIM)}
    teacher = needs["teacher"] / TEACHER if "teacher" in needs else None
    # Reports call a run by the name of its folder.
    output = folder / str(values.get("defense", "w2s"))
    own = {"student": student, "teacher_folder": teacher, "resume": True, "output": output}
    run = DefendRun.model_validate({**values, **own})
    if (output / RECORD).is_file():
        # Finished, but not entered in the ledger.
        return _measured(output)
    if (output / STARTED).is_file():
        # Its key says that it is the same run; its paths are others where the ledger was moved.
        write_json(output / STARTED, run.model_dump(mode="json"))
    return _measured(run_defense(run, display))


_MAKERS = {"poison": _poison, "teach": _teach, "defend": _defend}


def _measured(folder: Path) -> Mapping[str, Any]:
    from w2sdefense.evaluation.record import load_record

    evaluation = load_record(folder).evaluation.model_dump(mode="json")
    return {"run": folder.name, "evaluation": evaluation}
