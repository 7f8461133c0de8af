"""The paper's setting at the size of one small machine: SmolLM2-135M, SST-2, BadNet and InSent.

What is measured: CA, ASR and the no-trigger floor of a victim, of LoRA, and of W2SDefense in the
paper's form, in the release's form, in the form that is this package's default, and with one loss
left out. The victim is poisoned on MR (the attacker's proxy data) and defended with SST-2.

What is not: other students, other targets, generation. Speed is in `train_step.py`.

It runs for hours and is one resumable command; every finished row is a record in the runs folder,
and the table is made from the records that are there:

    W2S_DATA=... python benchmarks/w2s_small.py

The loss weights are one set for all rows of a form, chosen without looking at any ASR: see
"Choosing the weights" in docs/LOG.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from w2sdefense.config import (
    AdapterConfig,
    AttackConfig,
    DataConfig,
    DistillConfig,
    InsertionConfig,
    SoftTriggerConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.evaluation.record import RECORD, load_record
from w2sdefense.experiments.display import Display
from w2sdefense.experiments.stages import run_defense, run_poison
from w2sdefense.io import write_json, write_text
from w2sdefense.run_config import DefendRun, PoisonRun, TestConfig

TARGET = "negative"
MAX_LENGTH = 64
PAPER_FORM = {"beta": 0.2, "gamma": 0.2, "feature_scale": "none"}
RELEASE_FORM = {"alpha": 5.0, "beta": 0.001, "gamma": 0.001, "alignment": "release"}


@dataclass(frozen=True)
class Method:
    """One row of the table, but for attack and seed."""

    defense: Literal["lora", "w2s"]
    distill: DistillConfig = field(default_factory=DistillConfig)
    soft: SoftTriggerConfig = field(default_factory=SoftTriggerConfig)
    insertions: InsertionConfig = field(default_factory=InsertionConfig)


NO_SOFT = SoftTriggerConfig(per_label=0)
METHODS = {
    "lora": Method("lora"),
    "w2s": Method("w2s"),
    "w2s-paper": Method("w2s", DistillConfig.model_validate(PAPER_FORM), NO_SOFT),
    "w2s-release": Method("w2s", DistillConfig.model_validate(RELEASE_FORM), NO_SOFT),
    "w2s-no-soft": Method("w2s", soft=NO_SOFT),
    "w2s-insertions": Method("w2s", soft=NO_SOFT, insertions=InsertionConfig(rate=0.8)),
    "ce+fa": Method("w2s", DistillConfig(beta=0.0)),
    "ce+kd": Method("w2s", DistillConfig(gamma=0.0)),
}
"""Name -> what it is. Where nothing is said, it is the package's default."""

ROWS = [(name, 0) for name in METHODS] + [("lora", 1), ("w2s", 1)]
"""Method and seed of every row, the important ones first."""

AttackName = Literal["badnet", "insent"]
ATTACKS: tuple[AttackName, ...] = ("badnet", "insent")


def main(
    folder: Annotated[Path, typer.Option(help="Runs.")] = Path("runs/w2s_small"),
    results: Annotated[Path, typer.Option(help="Tables.")] = Path("benchmarks/results"),
    test_samples: Annotated[int, typer.Option(help="Clean test samples.")] = 600,
    train_samples: Annotated[int, typer.Option(help="Clean training samples.")] = 960,
    epochs: Annotated[int, typer.Option(help="Epochs of every defense.")] = 3,
    attack: Annotated[str, typer.Option(help="badnet, insent, or all.")] = "all",
) -> None:
    """Run what is missing, the important rows first, and write the tables after each."""
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
        for name in chosen:
            run_poison(_poison(name, data, folder), display)
            write_tables(folder, results)
        for (method, seed), name in product(ROWS, chosen):
            display.say(f"{name} {method} seed {seed}")
            run_defense(_defend(name, method, seed, epochs, data, folder), display)
            write_tables(folder, results)
    Console().print((results / "w2s_small.md").read_text(encoding="utf-8"))


def _victim(folder: Path, attack: str) -> Path:
    return folder / attack / "poisoned"


def _poison(attack: AttackName, data: DataConfig, folder: Path) -> PoisonRun:
    return PoisonRun(
        student=StudentConfig(max_length=MAX_LENGTH),
        # The limit of the training rows counts for the proxy, whose rows are poisoned.
        data=data.model_copy(update={"train_samples": 1200}),
        proxy="mr",
        attack=AttackConfig(attack=attack, target=TARGET, poison_rows=300),
        training=TrainingConfig(epochs=1, learning_rate=1e-4, save_steps=25),
        output=_victim(folder, attack),
        resume=True,
    )


def _defend(
    attack: str, method: str, seed: int, epochs: int, data: DataConfig, folder: Path
) -> DefendRun:
    chosen = METHODS[method]
    relu = "-relu" if chosen.distill.alignment == "release" else ""
    return DefendRun(
        student=StudentConfig(model=str(_victim(folder, attack)), max_length=MAX_LENGTH),
        data=data,
        defense=chosen.defense,
        distill=chosen.distill,
        soft=chosen.soft,
        insertions=chosen.insertions,
        adapter=AdapterConfig(),
        training=TrainingConfig(epochs=epochs, seed=seed),
        teacher=TeacherConfig(max_length=MAX_LENGTH, seed=seed),
        teacher_folder=folder / f"teacher{relu}-{seed}",
        test=TestConfig(trigger=attack, target=TARGET),
        output=folder / attack / f"{method}-{seed}",
        resume=True,
    )


def write_tables(folder: Path, results: Path) -> None:
    """Make `w2s_small.json` and `w2s_small.md` from the records that are there."""
    rows = [
        row
        for attack in ATTACKS
        for method, seed in [("poisoned", 0), *sorted(ROWS)]
        if (row := _row(folder, attack, method, seed)) is not None
    ]
    write_json(results / "w2s_small.json", rows)
    write_text(results / "w2s_small.md", _markdown(rows))


def _row(folder: Path, attack: str, method: str, seed: int) -> dict[str, Any] | None:
    run = _victim(folder, attack) if method == "poisoned" else folder / attack / f"{method}-{seed}"
    if not (run / RECORD).is_file():
        return None
    record = load_record(run)
    found = record.evaluation
    if found.asr is None or found.floor is None:
        raise ValueError(f"{run} was measured without a trigger")
    return {
        "attack": attack,
        "proxy": "mr",
        "method": method,
        "seed": seed,
        "ca": found.ca.value,
        "ca_interval": found.ca.interval,
        "asr": found.asr.value,
        "asr_interval": found.asr.interval,
        "floor": found.floor.value,
        "floor_interval": found.floor.interval,
        "n_ca": found.ca.total,
        "n_asr": found.asr.total,
        "cut_triggers": found.cut_triggers,
        "seconds": record.provenance.seconds,
        "machine": record.provenance.machine,
    }


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| attack | method | seed | CA % | ASR % | floor % | n CA | n ASR | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        shares = (_share(row[name], row[f"{name}_interval"]) for name in ("ca", "asr", "floor"))
        cells = [row["attack"], row["method"], row["seed"], *shares]
        cells += [row["n_ca"], row["n_asr"], round(row["seconds"] / 60, 1)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]".replace("%", "")


if __name__ == "__main__":
    typer.run(main)
