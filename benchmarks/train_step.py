"""What a W2SDefense step costs: against plain LoRA, against a straightforward loop, against peak.

    python benchmarks/train_step.py --rounds 3 --texts 256 \
        --output benchmarks/results/train_step.json

SmolLM2-135M is trained with LoRA (r 64, all linear layers) in float32 on Rotten Tomatoes, all of it
embedded: no hub is needed. Every round trains one epoch of each arm (`arms.py`) in one process, in
an order that rotates, and ratios are taken within a round: what slows the machine for a while slows
all three. An epoch counts from a new optimizer to the last step, batching and the Trainer's own
work included; what is done once (tokenization, the teacher's targets) is timed apart and shared out
over five epochs, as in the paper's setting.

The share of peak is the operations of `flops.py` per second, over the fastest float32 matrix
product that the same run measured on the machine: with the tokens of the texts alone, and with
padding counted as work. Peak memory is that of a process of its own that trains one epoch of one
arm. The time of `w2s --help` stands beside it.

Not measured: training the teacher (any method with a teacher pays for it once), evaluation and
checkpoints, accelerators, other precisions. Times on a machine that does other work are worth
little; the load is recorded, and ratios of CPU time stand beside those of the clock.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from arms import ARMS, Arm, Batch, Workload, memory_of
from flops import TrainingFlops, matmul_speed, product_shapes, training_flops
from w2sdefense.cli.display import Display
from w2sdefense.config import DataConfig
from w2sdefense.data import load_dataset
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.io import write_json

EPOCHS = 5
"""Epochs over which what is done once is shared out (paper, Section 5)."""

RATIOS = (("w2s", "lora"), ("w2s", "loop"), ("lora", "loop"))

AIMS = {
    "w2s_over_lora": ("W2S / LoRA, time per sample", "at most", 1.05),
    "w2s_over_loop": ("W2S / straightforward loop, end to end", "at most", 0.6),
    "share_of_peak": ("W2S, share of the matrix-product peak (with padding)", "at least", 0.7),
    "help_seconds": ("w2s --help, seconds", "at most", 0.5),
}
"""Name -> what it is, direction, limit."""


@dataclass
class Timings:
    """What was measured of one arm.

    Attributes:
        one_off_seconds: Time of what is done once.
        flops: Operations per text.
        seconds: Time of every epoch.
        cpu_seconds: CPU time of every epoch.
        batches: Sizes of the batches of every epoch.
    """

    one_off_seconds: float
    flops: TrainingFlops
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    batches: list[list[Batch]] = field(default_factory=list)

    def end_to_end(self) -> list[float]:
        """Seconds of five epochs and what is done once, from every round."""
        return [self.one_off_seconds + EPOCHS * epoch for epoch in self.seconds]

    def tokens(self) -> tuple[float, float]:
        """Tokens of an epoch (mean over the rounds): of the texts, and with padding."""
        batches = [batch for epoch in self.batches for batch in epoch]
        texts = sum(sum(batch.lengths) for batch in batches)
        padded = sum(len(batch.lengths) * batch.width for batch in batches)
        return texts / len(self.batches), padded / len(self.batches)

    def speed(self, *, padding: bool) -> list[float]:
        """GFLOP/s of every epoch, with or without the operations on padding."""
        return [
            sum(self.flops.of(_lengths(batch, padding)) for batch in epoch) / seconds / 1e9
            for epoch, seconds in zip(self.batches, self.seconds, strict=True)
        ]


def _lengths(batch: Batch, padding: bool) -> Sequence[int]:
    return [batch.width] * len(batch.lengths) if padding else batch.lengths


@dataclass
class Measured:
    """Everything that was measured.

    Attributes:
        arms: Timings by arm.
        products: GFLOP/s of matrix products by shape, the best of all rounds.
        memory: Peak memory by arm; empty if it was not measured.
        help_seconds: Times of `w2s --help`.
    """

    arms: dict[str, Timings] = field(default_factory=dict)
    products: dict[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)
    help_seconds: list[float] = field(default_factory=list)


def measure_rounds(
    workload: Workload,
    rounds: int,
    folder: Path,
    advance: Callable[[int], Any] = lambda texts: None,
    product_seconds: float = 0.25,
) -> tuple[dict[str, Timings], dict[str, float]]:
    """Time the arms in turn.

    Args:
        workload: What to train on.
        rounds: How often; before the first, every arm trains an epoch that is not counted on a
            part of the texts.
        folder: For the cached targets.
        advance: Told how many more texts an arm was trained on.
        product_seconds: How long each matrix product is tried per round.

    Returns:
        Timings by arm, and the speed of matrix products by shape in GFLOP/s.
    """
    warm = replace(workload, examples=workload.examples[: _warm_up(workload)])
    for name, build in ARMS.items():
        build(warm, folder / f"warm-{name}").epoch(0, lambda batch: advance(len(batch.lengths)))
    gc.collect()
    arms = {name: build(workload, folder / name) for name, build in ARMS.items()}
    timings = {n: Timings(a.one_off_seconds, training_flops(a.model)) for n, a in arms.items()}
    width = int(statistics.median(arms["w2s"].lengths))
    shapes = product_shapes(arms["w2s"].model, workload.batch_size * width)
    products: dict[str, float] = {}
    names = list(arms)
    for number in range(rounds):
        for shape in shapes:
            key = " x ".join(map(str, shape))
            products[key] = max(products.get(key, 0.0), matmul_speed(shape, product_seconds))
        for name in names[number % len(names) :] + names[: number % len(names)]:
            _time_epoch(arms[name], timings[name], number, advance)
    return timings, products


def _warm_up(workload: Workload) -> int:
    return min(len(workload.examples), 2 * workload.batch_size)


def _time_epoch(arm: Arm, timings: Timings, number: int, advance: Callable[[int], Any]) -> None:
    batches: list[Batch] = []

    def note(batch: Batch) -> None:
        batches.append(batch)
        advance(len(batch.lengths))

    gc.collect()
    cpu, start = time.process_time(), time.perf_counter()
    arm.epoch(number, note)
    timings.seconds.append(time.perf_counter() - start)
    timings.cpu_seconds.append(time.process_time() - cpu)
    timings.batches.append(batches)


def measure_memory(workload: Workload, folder: Path) -> dict[str, dict[str, float]]:
    """Peak memory of every arm, each in a process of its own."""
    memory = {}
    for name in ARMS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            memory[name] = pool.submit(memory_of, name, workload, folder / name).result()
    return memory


def measure_help(times: int = 5) -> list[float]:
    """Seconds of `w2s --help`, from a new interpreter to its end."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "w2sdefense", "--help"], check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - start)
    return seconds


def summarize(measured: Measured, workload: Workload) -> dict[str, Any]:
    """Everything that is written: times, shares of peak, memory, ratios, and the aims.

    Args:
        measured: What was measured.
        workload: What was trained on.
    """
    peak = max(measured.products.values())
    arms = {
        name: {
            **_arm_summary(timings, len(workload.examples), peak),
            "memory": measured.memory.get(name),
        }
        for name, timings in measured.arms.items()
    }
    ratios = {f"{a}_over_{b}": _ratios(measured.arms[a], measured.arms[b]) for a, b in RATIOS}
    reached = {
        "w2s_over_lora": ratios["w2s_over_lora"]["epoch"]["median"],
        "w2s_over_loop": ratios["w2s_over_loop"]["end_to_end"]["median"],
        "share_of_peak": arms["w2s"]["share_of_peak"]["with_padding"]["median"],
        "help_seconds": statistics.median(measured.help_seconds),
    }
    return {
        "benchmark": "train_step",
        "settings": {
            **{k: v for k, v in asdict(workload).items() if k not in {"examples", "label_names"}},
            "texts": len(workload.examples),
            "rounds": len(measured.arms["w2s"].seconds),
            "epochs_end_to_end": EPOCHS,
            "precision": "float32",
        },
        "ratios": ratios,
        "aims": {
            name: {
                "what": what,
                "aim": f"{direction} {limit}",
                "reached": round(reached[name], 4),
                "met": reached[name] <= limit if direction == "at most" else reached[name] >= limit,
            }
            for name, (what, direction, limit) in AIMS.items()
        },
        "arms": arms,
        "peak_gflops": round(peak, 1),
        "product_gflops": {shape: round(speed, 1) for shape, speed in measured.products.items()},
        "help_seconds": _spread(measured.help_seconds),
    }


def _arm_summary(timings: Timings, texts: int, peak: float) -> dict[str, Any]:
    useful, padded = timings.tokens()
    return {
        "one_off_seconds": round(timings.one_off_seconds, 3),
        "epoch_seconds": _spread(timings.seconds),
        "epoch_cpu_seconds": _spread(timings.cpu_seconds),
        "ms_per_sample": _spread([1000 * seconds / texts for seconds in timings.seconds]),
        "ms_per_sample_end_to_end": _spread(
            [1000 * seconds / (EPOCHS * texts) for seconds in timings.end_to_end()]
        ),
        "tokens_per_epoch": round(useful),
        "tokens_per_epoch_with_padding": round(padded),
        "padding_share": round(1 - useful / padded, 4),
        "share_of_peak": {
            "texts_only": _spread([s / peak for s in timings.speed(padding=False)]),
            "with_padding": _spread([s / peak for s in timings.speed(padding=True)]),
        },
    }


def _ratios(a: Timings, b: Timings) -> dict[str, dict[str, float]]:
    return {
        "epoch": _spread(_divide(a.seconds, b.seconds)),
        "end_to_end": _spread(_divide(a.end_to_end(), b.end_to_end())),
        "epoch_cpu": _spread(_divide(a.cpu_seconds, b.cpu_seconds)),
    }


def _divide(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x / y for x, y in zip(a, b, strict=True)]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
    }


def show(summary: dict[str, Any], console: Console) -> None:
    """Print the tables."""
    table = Table(title=f"Training step, {summary['settings']['student']}, median of the rounds")
    for column in ("arm", "ms/sample", f"end to end, {EPOCHS} epochs", "padding"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for column in ("of peak: texts only", "with padding", "peak memory"):
        table.add_column(column, justify="right")
    for name, arm in summary["arms"].items():
        share = arm["share_of_peak"]
        table.add_row(
            name,
            f"{arm['ms_per_sample']['median']:.1f}",
            f"{arm['ms_per_sample_end_to_end']['median']:.1f}",
            f"{arm['padding_share']:.1%}",
            f"{share['texts_only']['median']:.1%}",
            f"{share['with_padding']['median']:.1%}",
            f"{arm['memory']['peak_mb']:,.0f} MB" if arm["memory"] else "-",
        )
    console.print(table)
    table = Table(title="Ratios, median (min to max) over the rounds")
    for column in ("ratio", "epoch", "end to end", "epoch, CPU time"):
        table.add_column(column, justify="left" if column == "ratio" else "right")
    for name, ratio in summary["ratios"].items():
        cells = [f"{r['median']:.3f} ({r['min']:.3f} to {r['max']:.3f})" for r in ratio.values()]
        table.add_row(name.replace("_over_", " / "), *cells)
    console.print(table)
    table = Table(title=f"Aims (peak of matrix products: {summary['peak_gflops']:.0f} GFLOP/s)")
    for column in ("what", "aim", "reached", ""):
        table.add_column(column)
    for aim in summary["aims"].values():
        mark = "[green]met[/]" if aim["met"] else "[red]missed[/]"
        table.add_row(aim["what"], aim["aim"], f"{aim['reached']:.3f}", mark)
    console.print(table)


def _quiet_libraries() -> None:
    """No bars of others between ours; processes that are started from here are quiet as well."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.simplefilter("ignore", FutureWarning)
    os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"


def main(
    rounds: Annotated[int, typer.Option(min=1, help="How often every arm is timed.")] = 3,
    texts: Annotated[int, typer.Option(min=2, help="Training texts.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Texts per step.")] = 16,
    lora_r: Annotated[int, typer.Option(min=1, help="LoRA rank.")] = 64,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory (one epoch more).")] = True,
    dataset: Annotated[str, typer.Option(help="Dataset, as for w2s.")] = "rotten-tomatoes",
    student: Annotated[str, typer.Option(help="Student: a Llama-like model.")] = "smollm2-135m",
    teacher: Annotated[str, typer.Option(help="Teacher.")] = "minilm-l6",
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time W2SDefense against plain LoRA and a straightforward loop, and against the machine."""
    _quiet_libraries()
    console = Console()
    clock = Clock()
    load_before = os.getloadavg()
    data = load_dataset(DataConfig(dataset=dataset, train_samples=texts))
    workload = Workload(
        data.train, data.label_names, student, teacher, batch_size=batch_size, lora_r=lora_r
    )
    measured = Measured(help_seconds=measure_help())
    with tempfile.TemporaryDirectory() as name, Display(console) as display:
        folder = Path(name)
        if memory:
            display.say("Peak memory, one process per arm ...")
            measured.memory = measure_memory(workload, folder / "memory")
        total = len(ARMS) * (rounds * len(workload.examples) + _warm_up(workload))
        advance = display.texts("training steps", total)
        measured.arms, measured.products = measure_rounds(workload, rounds, folder, advance)
    provenance = clock.provenance()
    summary = {
        **summarize(measured, workload),
        "machine": {
            **provenance.machine,
            "load_before": round(load_before[0], 2),
            "load_after": round(os.getloadavg()[0], 2),
        },
        "versions": provenance.versions,
        "started": provenance.started,
        "seconds": provenance.seconds,
    }
    show(summary, console)
    if output is not None:
        write_json(output, summary)
        console.print(f"Written: {output}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
