"""Generation at the size of one small machine: SmolLM2-135M on CRRsum and Ape210K.

What is measured: quality on clean text (ROUGE-1/2/L over characters, or exact numbers), ASR and the
no-trigger floor of a poisoned model, of LoRA, and of W2SDefense, with a rare character as trigger.
Attacker and defender hold different rows of the same data.

What is not: whether the tasks are done well. SmolLM2 was not made for Chinese, which it reads byte
by byte, and a few hundred rows teach it the form of an answer at best. There is no smaller model of
its family, so the teacher is a clean copy of the same size. The trigger stands at the start of a
text, where the limit of tokens cannot cut it off.

It is one resumable command; every finished row is a record in the runs folder, and the table is
made from the records that are there. From a run with eight rows (one core, 4 to 9 GB of memory) the
default sizes should take a quarter of an hour for Ape210K and half an hour for CRRsum on two cores:

    W2S_DATA=... python benchmarks/generation.py
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from w2sdefense.config import (
    AdapterConfig,
    AttackConfig,
    DataConfig,
    DistillConfig,
    GenerationConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.evaluation.record import RECORD, load_record
from w2sdefense.experiments.display import Display
from w2sdefense.experiments.stages import run_defense, run_poison
from w2sdefense.io import write_json, write_text
from w2sdefense.run_config import DefendRun, PoisonRun, TestConfig
from w2sdefense.tasks import TASKS

TRIGGER = "龘"
METHODS: tuple[Literal["lora", "w2s"], ...] = ("lora", "w2s")


@dataclass(frozen=True)
class Setting:
    """One task with its data, cut to the length that its texts need in bytes."""

    task: Literal["summarization", "reasoning"]
    dataset: str
    max_length: int
    answer_tokens: int
    rows: int


SETTINGS = (
    Setting("reasoning", "ape210k", max_length=144, answer_tokens=12, rows=240),
    Setting("summarization", "crrsum", max_length=256, answer_tokens=80, rows=96),
)


def main(
    folder: Annotated[Path, typer.Option(help="Runs.")] = Path("runs/generation"),
    results: Annotated[Path, typer.Option(help="Tables.")] = Path("benchmarks/results"),
    model: Annotated[str, typer.Option(help="Student.")] = "smollm2-135m",
    teacher: Annotated[str, typer.Option(help="Teacher.")] = "smollm2-135m",
    scale: Annotated[float, typer.Option(help="Rows, times this.")] = 1.0,
    test_samples: Annotated[int, typer.Option(help="Clean test samples.")] = 50,
    epochs: Annotated[int, typer.Option(help="Epochs of everything.")] = 1,
) -> None:
    """Run what is missing and write the tables after each row."""
    with Display() as display:
        for setting in SETTINGS:
            rows = max(8, round(scale * setting.rows))
            display.say(f"{setting.dataset}: poisoned")
            run_poison(_poison(setting, model, rows, test_samples, epochs, folder), display)
            write_tables(folder, results)
            for method in METHODS:
                display.say(f"{setting.dataset}: {method}")
                run = _defend(setting, method, teacher, rows, test_samples, epochs, folder)
                run_defense(run, display)
                write_tables(folder, results)
    Console().print((results / "generation.md").read_text(encoding="utf-8"))


def _common(setting: Setting, model: str, data: DataConfig, output: Path) -> dict[str, Any]:
    return {
        "task": setting.task,
        "student": StudentConfig(model=model, max_length=setting.max_length),
        "data": data,
        "generation": GenerationConfig(answer_tokens=setting.answer_tokens),
        "output": output,
        "resume": True,
    }


def _poison(
    setting: Setting, model: str, rows: int, test_samples: int, epochs: int, folder: Path
) -> PoisonRun:
    data = DataConfig(dataset=setting.dataset, train_samples=rows, test_samples=test_samples)
    return PoisonRun(
        **_common(setting, model, data, folder / setting.dataset / "poisoned"),
        attack=AttackConfig(
            trigger=TRIGGER, place="start", poison_rate=0.3, target=TASKS[setting.task].target
        ),
        training=TrainingConfig(epochs=epochs, batch_size=8, learning_rate=1e-4, save_steps=10),
    )


def _defend(
    setting: Setting,
    method: Literal["lora", "w2s"],
    teacher: str,
    rows: int,
    test_samples: int,
    epochs: int,
    folder: Path,
) -> DefendRun:
    place = folder / setting.dataset
    data = DataConfig(
        dataset=setting.dataset,
        train_skip=rows,
        train_samples=rows,
        validation_samples=max(8, rows // 10),
        test_samples=test_samples,
    )
    return DefendRun(
        **_common(setting, str(place / "poisoned"), data, place / method),
        defense=method,
        # The output layer is frozen, so features cannot be asked to turn as far as a classifier's.
        distill=DistillConfig(gamma=1.0),
        adapter=AdapterConfig(),
        training=TrainingConfig(epochs=epochs, batch_size=8, learning_rate=1e-3, save_steps=10),
        teacher=TeacherConfig(model=teacher, epochs=epochs, batch_size=8),
        teacher_folder=place / "teacher",
        test=TestConfig(trigger=TRIGGER, target=TASKS[setting.task].target, place="start"),
    )


def write_tables(folder: Path, results: Path) -> None:
    """Make `generation.json` and `generation.md` from the records that are there."""
    rows = [
        _row(setting, method, folder / setting.dataset / method)
        for setting in SETTINGS
        for method in ("poisoned", *METHODS)
        if (folder / setting.dataset / method / RECORD).is_file()
    ]
    write_json(results / "generation.json", rows)
    write_text(results / "generation.md", _markdown(rows))


def _row(setting: Setting, method: str, run: Path) -> dict[str, Any]:
    record = load_record(run)
    found = record.evaluation
    if found.asr is None or found.floor is None:
        raise ValueError(f"{run} was measured without a trigger")
    return {
        "dataset": setting.dataset,
        "method": method,
        "metric": found.metric,
        "quality": found.ca.value,
        "quality_interval": found.ca.interval,
        "scores": {name: mean.value for name, mean in found.scores.items()},
        "asr": found.asr.value,
        "asr_interval": found.asr.interval,
        "floor": found.floor.value,
        "floor_interval": found.floor.interval,
        "n_quality": found.ca.total,
        "n_asr": found.asr.total,
        "cut_triggers": found.cut_triggers,
        "seconds": record.provenance.seconds,
        "machine": record.provenance.machine,
        "model": record.config["student"]["model"],
    }


def _markdown(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| dataset | method | metric | quality % | ASR % | floor % | n | n ASR | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        shares = (
            _share(row[name], row[f"{name}_interval"]) for name in ("quality", "asr", "floor")
        )
        cells = [row["dataset"], row["method"], row["metric"], *shares]
        cells += [row["n_quality"], row["n_asr"], round(row["seconds"] / 60, 1)]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _share(value: float, interval: tuple[float, float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


if __name__ == "__main__":
    typer.run(main)
