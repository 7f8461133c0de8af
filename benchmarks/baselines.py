"""All defenses on one small model: SmolLM2-135M, SST-2, BadNet and InSent, poisoned on MR.

Measured are CA, ASR and the no-trigger floor of W2SDefense and the ten baselines, what a prediction
costs behind each (input defenses are paid for every time), what it takes to set one up, the peak
memory of a process that does nothing else, and the size of the quantized model. Victims and teacher
are those of `w2s_small.py`, in the same runs folder. For BadNet, back-translation and SCPD are
measured on texts of the original tools, too (`variants/` beside the test set, with its own
triggered texts): nothing is rewritten there, the victim reads what the tools wrote.

It runs for hours and is one resumable command. Every row runs in a process of its own; the table is
made from what is finished, and keeps the rows of other machines that it has already:

    W2S_DATA=... python benchmarks/baselines.py

Arithmetic, for one epoch of 960 training rows, 200 validation, 300 clean and 150 triggered test
texts of 27 tokens; 5.7 GFLOP for a text forward, 11.5 for a training step through PEFT, 17 for one
of all parameters; in TFLOP, the last 2.6 of each for the test texts:

    poisoned, back-translation, scpd     3    the victim reads a text once
    icl                                 13    prompts of some 140 tokens
    psim                                21    one epoch of p-tuning, two models at every prediction
    lora, quantization                  15    11 training, 1 validation
    finetune, merge                     20    16 training, 1 validation
    w2s                                 38    11 training, 5 teacher, 1 validation, 18 the search
                                              for suspects, unless `w2s_small.py` has done it
    onion                            30-45    16 scoring validation text, 16 at most choosing the
                                              threshold, 5-10 scoring test texts
    prune                            23-44    up to 22 searching the share, then as finetune

The paper's LLaMA3 numbers (its Table 12) have a column, which says "not at hand" where the package
has none (`src/w2sdefense/paper/published.yaml`). What is not measured: other students, targets and
seeds.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from tables import Row, chosen, markdown, measured, percent, recorded, with_earlier
from w2s_small import (
    ATTACKS,
    KNOWN_BASE,
    MAX_LENGTH,
    TARGET,
    poison_run,
    teacher_config,
    teacher_folder,
    victim_folder,
)
from w2sdefense.attacks import TestConfig
from w2sdefense.cli.display import Display
from w2sdefense.commands.defend import run_defense
from w2sdefense.commands.evaluate import run_evaluate
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, EvaluateRun
from w2sdefense.config import DataConfig, StudentConfig, TrainingConfig
from w2sdefense.defenses.back_translation import BackTranslationConfig
from w2sdefense.defenses.icl import IclConfig
from w2sdefense.defenses.merge import MergeConfig
from w2sdefense.defenses.onion import OnionConfig
from w2sdefense.evaluation.metrics import accuracy, target_rate
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import RECORD
from w2sdefense.io import write_json, write_text
from w2sdefense.paper import Value, published
from w2sdefense.victim import Victim, load_victim

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"defense": "lora"},
    "w2s": {"defense": "w2s"},
    "w2s-known-base": {"defense": "w2s", "scan": KNOWN_BASE},
    "finetune": {"defense": "finetune"},
    "onion": {"defense": "onion"},
    "back-translation": {
        "defense": "back-translation",
        "back_translation": BackTranslationConfig(engine="apertium"),
    },
    "scpd": {"defense": "scpd"},
    "icl": {"defense": "icl"},
    "psim": {"defense": "psim"},
    "quantization": {"defense": "quantization"},
    "merge": {"defense": "merge"},
    "prune": {"defense": "prune"},
    "icl-similar": {"defense": "icl", "icl": IclConfig(choice="similar")},
    "icl-rationale": {"defense": "icl", "icl": IclConfig(choice="rationale")},
    "merge-ties": {"defense": "merge", "merging": MergeConfig(method="ties")},
}
"""Name -> settings of a run. Where nothing is said, it is the package's default."""

TOOLS = {"back-translation-original": "backtranslated", "scpd-original": "scpd"}
"""Rows on texts of the original tools -> part of the file names."""

PROMPT_LENGTH = 256
"""Tokens that a model may read behind ICLDefense: four demonstrations and the text."""

PAPER: dict[str, Value] = {
    "student": "llama3-8b",
    "teacher": "bert-base",
    "dataset": "sst2",
    "proxy": "paper",
    "seed": 0,
}
"""What all rows of the paper's Table 12 have in common, by axis."""

COLUMNS: dict[str, Callable[[Row], object]] = {
    "attack": lambda row: row["attack"],
    "method": lambda row: row["method"],
    "CA %": percent("ca"),
    "ASR %": percent("asr"),
    "floor %": percent("floor"),
    "n": lambda row: f"{row['n_ca']} / {row['n_asr']}",
    "ms per text": lambda row: round(1000 * row["seconds_per_text"], 1),
    "set-up s": lambda row: row["setup_seconds"],
    "peak MB": lambda row: row["peak_memory_mb"],
    "bits": lambda row: row["bits"],
    "MB": lambda row: None if row["bytes"] is None else round(row["bytes"] / 2**20, 1),
    "paper, LLaMA3: CA / ASR %": lambda row: row["paper_llama3"] or "not at hand",
}


def main(
    folder: Annotated[Path, typer.Option(help="Runs.")] = Path("runs/w2s_small"),
    results: Annotated[Path, typer.Option(help="Tables.")] = Path("benchmarks/results"),
    train_samples: Annotated[int, typer.Option(help="Clean training samples.")] = 960,
    validation_samples: Annotated[int, typer.Option(help="Clean validation samples.")] = 200,
    test_samples: Annotated[int, typer.Option(help="Clean test samples.")] = 300,
    epochs: Annotated[int, typer.Option(help="Epochs of what is trained.")] = 1,
    model: Annotated[str, typer.Option(help="What is poisoned, and scores.")] = "smollm2-135m",
    teacher: Annotated[str, typer.Option(help="Teacher of w2s.")] = "minilm-l6",
    only: Annotated[str, typer.Option(help="Rows to run, comma-separated.")] = "",
    row: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run what is missing, the important rows first, and write the tables after each."""
    data = DataConfig(
        dataset="sst2",
        train_samples=train_samples,
        validation_samples=validation_samples,
        test_samples=test_samples,
    )
    if row:
        attack, method = row.split("/")
        with Display() as display:
            run_row(attack, method, folder, data, epochs, model, teacher, display)
        return
    names = ["poisoned", *METHODS, *TOOLS]
    wanted = chosen(only, names) or names
    failed = []
    for method, attack in product([n for n in names if n in wanted], ATTACKS):
        if method in TOOLS and (attack != "badnet" or not variants_folder().is_dir()):
            continue
        # A process of its own: what the one before needed does not count in the peak of memory.
        command = [sys.executable, __file__, *sys.argv[1:], "--row", f"{attack}/{method}"]
        if subprocess.run(command, check=False).returncode:
            failed.append(f"{attack}/{method}")
        write_tables(folder, results)
    Console().print((results / "baselines.md").read_text(encoding="utf-8"))
    if failed:
        Console().print(f"Not finished: {', '.join(failed)}. The same command tries again.")
        raise typer.Exit(1)


def run_row(
    attack: str,
    method: str,
    folder: Path,
    data: DataConfig,
    epochs: int,
    model: str,
    teacher: str,
    display: Display,
) -> None:
    """Make one row of the table, and the victim before it, unless they are there."""
    victim = victim_folder(folder, attack)
    if not (victim / RECORD).is_file():
        poison = poison_run(attack, data.model_copy(update={"test_samples": 600}), folder)
        student = poison.student.model_copy(update={"model": model})
        run_poison(poison.model_copy(update={"student": student}), display)
    display.say(f"{attack} {method}")
    output = row_folder(folder, attack, method)
    student = StudentConfig(model=str(victim), max_length=MAX_LENGTH)
    test = TestConfig(trigger=attack, target=TARGET)
    if method in TOOLS:
        if not (output / "row.json").is_file():
            count = data.test_samples or sys.maxsize
            found = measure_tool(load_victim(student), variants_folder(), TOOLS[method], count)
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / "row.json", found)
    elif method == "poisoned":
        run = EvaluateRun(student=student, data=data, test=test, output=output, resume=True)
        run_evaluate(run, display)
    else:
        chosen = METHODS[method]
        if chosen["defense"] == "icl":
            student = student.model_copy(update={"max_length": PROMPT_LENGTH})
        values: dict[str, Any] = {
            "student": student,
            "data": data,
            "training": TrainingConfig(epochs=epochs, batch_size=8),
            "teacher": teacher_config(0).model_copy(update={"model": teacher}),
            "teacher_folder": teacher_folder(folder, relu=False, seed=0),
            "onion": OnionConfig(scorer=model),
            "merging": MergeConfig(),
            "test": test,
            "output": output,
            "resume": True,
        } | chosen
        values["merging"] = values["merging"].model_copy(update={"base": model})
        if "scan" in values:
            values["scan"] = values["scan"].model_copy(update={"fine_tuned_from": model})
        run_defense(DefendRun(**values), display)


def row_folder(folder: Path, attack: str, method: str) -> Path:
    """Where one row is kept: apart from the rows of `w2s_small.py`, which has other test sizes."""
    return folder / attack / "baselines" / method


def variants_folder() -> Path:
    """Where the texts of the original tools are: in the folder of the test set."""
    return Path(os.environ.get("W2S_DATA", "")) / "sst2" / "variants"


def measure_tool(victim: Victim, variants: Path, tool: str, count: int) -> Row:
    """Measure a victim on what an original tool made of the test texts.

    Args:
        victim: The poisoned model, without a defense: the tool was one.
        variants: Holds `test_TOOL.jsonl`, a rewritten text for every test text, and
            `test_badnet_TOOL.jsonl`, the same for every text of another label than the target,
            rewritten after the trigger was put in.
        tool: Part of the file names.
        count: How many clean texts, and half as many triggered ones, at most.

    Returns:
        CA on the first file, ASR on the second, the floor on the same texts of the first, with
        intervals and counts, and what it cost.
    """
    clock = Clock()
    target = victim.label_names.index(TARGET)
    clean = _rows(variants / f"test_{tool}.jsonl")
    others = [row for row in clean if row[1] != target]
    fired = _rows(variants / f"test_badnet_{tool}.jsonl")
    if [label for _, label in others] != [label for _, label in fired]:
        raise ValueError(f"the files of {tool} in {variants} do not line up")
    rng = random.Random(0)
    kept = rng.sample(clean, min(count, len(clean)))
    pairs = rng.sample(list(zip(others, fired, strict=True)), min(max(1, count // 2), len(others)))
    asked = [kept, [plain for plain, _ in pairs], [with_trigger for _, with_trigger in pairs]]
    answers = [[a.answer for a in victim.predict([text for text, _ in rows])] for rows in asked]
    labels = [[label for _, label in rows] for rows in asked]
    seconds = clock.provenance().seconds
    return {
        **measured(
            {
                "ca": accuracy(answers[0], labels[0]),
                "asr": target_rate(answers[2], labels[2], target),
                "floor": target_rate(answers[1], labels[1], target),
            }
        ),
        "seconds": seconds,
        "prediction_seconds": seconds,
        "seconds_per_text": seconds / sum(map(len, asked)),
        "peak_memory_mb": clock.provenance().peak_memory_mb,
        "found": {},
        "notes": ["the tool's own time is not known"],
        "machine": clock.provenance().machine,
    }


def _rows(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(row["text"], row["label"]) for row in map(json.loads, lines)]


def write_tables(folder: Path, results: Path) -> None:
    """Make `baselines.json` and `baselines.md` from the records and the rows that are there."""
    cells = list(product(ATTACKS, ["poisoned", *METHODS, *TOOLS]))
    rows = [row for cell in cells if (row := _row(folder, *cell)) is not None]
    rows = with_earlier(rows, results / "baselines.json", ("attack", "method"))
    # Of all rows: those from elsewhere may be older than a number that was checked since.
    rows = [row | {"paper_llama3": _paper(row)} for row in rows]
    rows.sort(key=lambda row: cells.index((row["attack"], row["method"])))
    write_json(results / "baselines.json", rows)
    write_text(results / "baselines.md", markdown(rows, COLUMNS))


def _row(folder: Path, attack: str, method: str) -> Row | None:
    place = row_folder(folder, attack, method)
    if method in TOOLS:
        path = place / "row.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    else:
        found = recorded(place)
    if found is None:
        return None
    return {
        "attack": attack,
        "proxy": "mr",
        "method": method,
        "seed": 0,
        **found,
        "setup_seconds": round(found["seconds"] - found["prediction_seconds"], 1),
        "bits": found["found"].get("bits"),
        "bytes": found["found"].get("bytes"),
    }


def _paper(row: Row) -> str | None:
    found = published("table12").of(PAPER | {"attack": row["attack"], "method": row["method"]})
    return None if found is None else f"{found.ca} / {found.asr}"


if __name__ == "__main__":
    typer.run(main)
