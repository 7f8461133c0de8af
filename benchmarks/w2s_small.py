"""The paper's setting at the size of one small machine: SmolLM2-135M, SST-2, BadNet and InSent.

What is measured: CA, ASR and the no-trigger floor of a victim, of LoRA, and of W2SDefense in the
paper's form, in the release's form, in the form that is this package's default, with one loss left
out, and in the default form by somebody who knows what the victim was fine-tuned from. The victim
is poisoned on MR (the attacker's proxy data) and defended with SST-2.

What is not: other students, other targets, generation. Speed is in `train_step.py`.

It runs for hours and is one resumable command; every finished row is a record in the runs folder,
and the table is made from the records that are there:

    W2S_DATA=... python benchmarks/w2s_small.py

On two cores it is about as fast to run `--attack badnet` and `--attack insent` beside each other,
each with OMP_NUM_THREADS=1, once the first of them has fitted the teachers.

The loss weights are one set for all rows of a form, chosen by clean accuracy on development victims
with other triggers: see docs/LOG.md, 2026-11-25. The form of the paper and that of the release have
the weights of the paper; rate, steps and adapter are the same in all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from tables import Row, markdown, percent, recorded, with_earlier
from w2sdefense.attacks import AttackConfig, TestConfig
from w2sdefense.cli.display import Display
from w2sdefense.commands.defend import run_defense
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun, TeachRun
from w2sdefense.commands.teach import run_teach
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    DistillConfig,
    ScanTrainingConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.io import write_json, write_text

TARGET = "negative"
MAX_LENGTH = 64
PAPER_FORM = {"beta": 0.2, "gamma": 0.2, "feature_scale": "none"}
RELEASE_FORM = {"alpha": 5.0, "beta": 0.001, "gamma": 0.001, "alignment": "release"}


@dataclass(frozen=True)
class Method:
    """One row of the table, but for attack and seed."""

    defense: Literal["lora", "w2s"]
    distill: DistillConfig = field(default_factory=DistillConfig)
    scan: ScanTrainingConfig = field(default_factory=ScanTrainingConfig)


NO_SCAN = ScanTrainingConfig(rate=0.0)
KNOWN_BASE = ScanTrainingConfig(fine_tuned_from=StudentConfig().model)
METHODS = {
    "lora": Method("lora"),
    "w2s": Method("w2s"),
    "w2s-paper": Method("w2s", DistillConfig.model_validate(PAPER_FORM), NO_SCAN),
    "w2s-release": Method("w2s", DistillConfig.model_validate(RELEASE_FORM), NO_SCAN),
    "ce+fa": Method("w2s", DistillConfig(beta=0.0)),
    "ce+kd": Method("w2s", DistillConfig(gamma=0.0)),
    "w2s-known-base": Method("w2s", scan=KNOWN_BASE),
    "w2s-no-scan": Method("w2s", scan=NO_SCAN),
}
"""Name -> what it is. Where nothing is said, it is the package's default."""

ROWS = [
    *(("lora", 0), ("w2s-paper", 0), ("w2s-release", 0), ("lora", 1), ("w2s", 0)),
    *(("w2s", 1), ("ce+fa", 0), ("ce+kd", 0), ("w2s-known-base", 0), ("w2s-known-base", 1)),
    ("w2s-no-scan", 0),
]
"""Method and seed of every row."""

AttackName = Literal["badnet", "insent"]
ATTACKS: tuple[AttackName, ...] = ("badnet", "insent")


def main(
    folder: Annotated[Path, typer.Option(help="Runs.")] = Path("runs/w2s_small"),
    results: Annotated[Path, typer.Option(help="Tables.")] = Path("benchmarks/results"),
    test_samples: Annotated[int, typer.Option(help="Clean test samples.")] = 600,
    train_samples: Annotated[int, typer.Option(help="Clean training samples.")] = 960,
    epochs: Annotated[int, typer.Option(help="Epochs of every defense.")] = 1,
    attack: Annotated[str, typer.Option(help="badnet, insent, or all.")] = "all",
) -> None:
    """Run what is missing, and write the tables after each row."""
    chosen = [name for name in ATTACKS if attack in ("all", name)]
    if not chosen:
        raise typer.BadParameter(f"{attack!r} is none of {', '.join(ATTACKS)}, all")
    data = DataConfig(
        dataset="sst2",
        train_samples=train_samples,
        validation_samples=200,
        test_samples=test_samples,
    )
    with Display() as display:
        for relu, seed in ((False, 0), (True, 0), (False, 1)):
            run_teach(_teach(relu, seed, data, folder), display)
        for name in chosen:
            run_poison(poison_run(name, data, folder), display)
            write_tables(folder, results)
        for (method, seed), name in product(ROWS, chosen):
            display.say(f"{name} {method} seed {seed}")
            run_defense(_defend(name, method, seed, epochs, data, folder), display)
            write_tables(folder, results)
    Console().print((results / "w2s_small.md").read_text(encoding="utf-8"))


def teacher_folder(folder: Path, relu: bool, seed: int) -> Path:
    """Where the teacher of a seed is kept."""
    return folder / f"teacher{'-relu' * relu}-{seed}"


def teacher_config(seed: int) -> TeacherConfig:
    """How the teacher of a seed is trained."""
    return TeacherConfig(max_length=MAX_LENGTH, epochs=3, seed=seed)


def _teach(relu: bool, seed: int, data: DataConfig, folder: Path) -> TeachRun:
    return TeachRun(
        data=data,
        teacher=teacher_config(seed),
        alignment="release" if relu else "paper",
        output=teacher_folder(folder, relu, seed),
        resume=True,
    )


def victim_folder(folder: Path, attack: str) -> Path:
    """Where the poisoned model of an attack is kept."""
    return folder / attack / "poisoned"


def poison_run(attack: AttackName, data: DataConfig, folder: Path) -> PoisonRun:
    """How the victim of an attack is made, with the reviews of MR."""
    chosen = AttackConfig(attack=attack, target=TARGET, poison_rows=300)
    return victim_run(chosen, data, "mr", victim_folder(folder, attack))


def victim_run(attack: AttackConfig, data: DataConfig, proxy: str, output: Path) -> PoisonRun:
    """How any victim is made that answers with labels: 75 steps on the data of an attacker."""
    return PoisonRun(
        student=StudentConfig(max_length=MAX_LENGTH),
        # The limit of the training rows counts for the proxy, whose rows are poisoned.
        data=data.model_copy(update={"train_samples": 1200}),
        proxy=proxy,
        attack=attack,
        training=TrainingConfig(epochs=1, learning_rate=1e-4, save_steps=25),
        output=output,
        resume=True,
    )


def _defend(
    attack: str, method: str, seed: int, epochs: int, data: DataConfig, folder: Path
) -> DefendRun:
    chosen = METHODS[method]
    relu = chosen.distill.alignment == "release"
    return DefendRun(
        student=StudentConfig(model=str(victim_folder(folder, attack)), max_length=MAX_LENGTH),
        data=data,
        defense=chosen.defense,
        distill=chosen.distill,
        scan=chosen.scan,
        adapter=AdapterConfig(),
        training=TrainingConfig(epochs=epochs, batch_size=8, seed=seed),
        teacher=teacher_config(seed),
        teacher_folder=teacher_folder(folder, relu, seed),
        test=TestConfig(trigger=attack, target=TARGET),
        output=folder / attack / f"{method}-{seed}",
        resume=True,
    )


def write_tables(folder: Path, results: Path) -> None:
    """Make `w2s_small.json` and `w2s_small.md` from the records that are there."""
    cells = [(attack, *row) for attack in ATTACKS for row in [("poisoned", 0), *sorted(ROWS)]]
    rows = [row for cell in cells if (row := _row(folder, *cell)) is not None]
    names = ("attack", "method", "seed")
    rows = with_earlier(rows, results / "w2s_small.json", names)
    rows.sort(key=lambda row: cells.index(tuple(row[name] for name in names)))
    write_json(results / "w2s_small.json", rows)
    write_text(results / "w2s_small.md", markdown(rows, COLUMNS))


COLUMNS: dict[str, Callable[[Row], object]] = {
    "attack": lambda row: row["attack"],
    "method": lambda row: row["method"],
    "seed": lambda row: row["seed"],
    "CA %": percent("ca"),
    "ASR %": percent("asr"),
    "floor %": percent("floor"),
    "n CA": lambda row: row["n_ca"],
    "n ASR": lambda row: row["n_asr"],
    "minutes": lambda row: round(row["seconds"] / 60, 1),
}


def _row(folder: Path, attack: str, method: str, seed: int) -> Row | None:
    own = folder / attack / f"{method}-{seed}"
    found = recorded(victim_folder(folder, attack) if method == "poisoned" else own)
    if found is None:
        return None
    return {"attack": attack, "proxy": "mr", "method": method, "seed": seed, **found}


if __name__ == "__main__":
    typer.run(main)
