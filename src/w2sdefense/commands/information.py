"""`w2s information`: how much of the label the features of finished runs hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from w2sdefense.evaluation.information import run_information


def show_information(folders: Sequence[Path]) -> None:
    """Print the label information of every run, on clean text and under attack.

    Raises:
        DataError: A folder holds no finished run of a classifier, or too few texts.
    """
    console = Console(markup=False, soft_wrap=True)
    table = Table("Run", "I(H; Y), clean text", "I(H; Y), under attack")
    for folder in folders:
        with console.status(f"Probing the features of {folder} ..."):
            found = run_information(folder)
        attacked = "no trigger" if found.attacked is None else str(found.attacked)
        table.add_row(Text(str(folder)), Text(str(found.clean)), Text(attacked))
    console.print(table)
    console.print(
        "Lower bounds in bits [95 %], of H(Y). Under attack, what is not of the target label "
        "carries the trigger, and the probe is that of clean text.",
        style="dim",
        highlight=False,
    )
