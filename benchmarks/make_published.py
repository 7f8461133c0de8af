"""Make `src/w2sdefense/paper/published.yaml` from the numbers of the paper's tables as JSON.

    python benchmarks/make_published.py tables.json

The JSON has, for every table, what it shows, its setting, and its rows in percent; it was extracted
from the paper's text by a program. Which flaws are known of a number is said here, and written
beside it. Nothing else is typed: `tests/test_paper.py` compares some rows with a second copy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from w2sdefense.io import write_text

OUTPUT = Path("src/w2sdefense/paper/published.yaml")

NOTES = {
    "table6": ["The paper gives neither the size of this Qwen2.5 nor that of its teacher."],
    "table11": ["The paper does not name the attack."],
    "table9": ["The paper does not say what these victims were poisoned on."],
}
"""What is known of a table."""

FLAWS: list[tuple[str, dict[str, str], str]] = [
    (
        "table11",
        {"student": "qwen2.5-7b"},
        "Equals LLaMA3-8B under BadNet in Table 1, another model.",
    ),
    (
        "table13",
        {"student": "llama3-8b", "method": "lora"},
        "Equals BadNet's entry in Table 1, another attack.",
    ),
    (
        "table13",
        {"student": "vicuna-7b", "method": "lora"},
        "Equals BadNet's entry in Table 1, another attack.",
    ),
    (
        "table6",
        {"dataset": "ape210k", "method": "w2s"},
        "The table says 3.10, the text of the paper 3.15.",
    ),
    (
        "table8",
        {"student": "llama3-8b", "method": "w2s"},
        "Table 1 has 96.05 and 9.79 for the same setting.",
    ),
    (
        "table8",
        {"student": "vicuna-7b", "method": "w2s"},
        "Table 1 has 96.60 and 10.01 for the same setting.",
    ),
    (
        "table7",
        {"student": "vicuna-7b", "adapter": "lora", "method": "w2s"},
        "Its CA is 96.32 here and 96.37 in Table 1, though the run is the same.",
    ),
]
"""Table, the values of the rows that it is about, and the flaw."""

EVERYWHERE = (
    "The authors' release computes ASR as 1 - accuracy on triggered text, so the paper's has no "
    "floor that could be subtracted."
)

METRICS = ("ca", "asr", "rouge1", "rouge2", "rougeL")
_NO_AXIS = (*METRICS, "category")

HEAD = """\
# Every number of the paper's Tables 1 to 13, in percent. Made by benchmarks/make_published.py, not
# edited. `row`: the values of the axes that a number belongs to; `flaw`: what is wrong with it.

"""


def main(
    tables: Annotated[Path, typer.Argument(help="The tables of the paper as JSON.")],
    output: Annotated[Path, typer.Option(help="File to write.")] = OUTPUT,
) -> None:
    """Write the file."""
    write_text(output, published(json.loads(tables.read_text(encoding="utf-8"))))


def published(tables: dict[str, Any]) -> str:
    """The text of the file."""
    lines = [HEAD + f"note: {_yaml(EVERYWHERE)}\ntables:\n"]
    for name, table in tables.items():
        lines.append(f"  {name}:\n    title: {_yaml(table['what'])}\n")
        if name in NOTES:
            lines.append(f"    notes: {_yaml(NOTES[name])}\n")
        lines.append("    rows:\n")
        setting = {k: v for k, v in table["setting"].items() if v in ATTACKS or k == "student"}
        for row in table["rows"]:
            axes = setting | {k: v for k, v in row.items() if k not in _NO_AXIS}
            line = {"row": axes | _attack(name)} | {k: row[k] for k in METRICS if k in row}
            if flaw := _flaw(name, axes):
                line["flaw"] = flaw
            lines.append(f"      - {_yaml(line)}\n")
    return "".join(lines)


ATTACKS = ("badnet", "insent", "synattack", "proattack")


def _attack(table: str) -> dict[str, str]:
    """What the recipes call the attack of a table, where the paper calls it something else."""
    return {"table6": {"attack": "rare-character"}, "table10": {"attack": "none"}}.get(table, {})


def _flaw(table: str, axes: dict[str, str]) -> str | None:
    found = [said for name, where, said in FLAWS if name == table and where.items() <= axes.items()]
    return found[0] if found else None


def _yaml(value: Any) -> str:
    """JSON is YAML, too; a row is one line."""
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    typer.run(main)
