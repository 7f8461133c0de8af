"""`w2s plan`: a student's parameters, what every way of running it needs, and the commands.

The arithmetic is in `models/plan.py`. A student is counted on a skeleton of it, from its config.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from w2sdefense.commands.runs import PlanRun
from w2sdefense.config import AdapterConfig, mark_of
from w2sdefense.models.plan import GIB, RESERVE, Fits, Load, Memory, WayName, memory
from w2sdefense.models.sizes import STUDENTS, Sizes, known_student

TITLES: dict[WayName, str] = {
    "single": "1 GPU",
    "ddp": "DDP",
    "fsdp": "FSDP2",
    "zero3": "ZeRO-3",
    "4bit": "4-bit, 1 GPU",
}

SEVERAL: tuple[WayName, ...] = ("ddp", "fsdp", "zero3")
"""Ways that use several GPUs."""

LAUNCHERS: dict[WayName, str] = {"fsdp": "fsdp2.yaml", "zero3": "zero3.yaml"}
"""Files for `accelerate launch` that come with the package."""

TEACHER = "runs/teacher"


@dataclass(frozen=True)
class Way:
    """One way to run a student: GPUs, bytes on each, and what to run if it fits."""

    name: WayName
    devices: int
    memory: Memory
    fits: Fits
    command: str | None


@dataclass(frozen=True)
class Plan:
    """What was planned: the settings, the parameters and the ways, the preferred one first."""

    run: PlanRun
    sizes: Sizes
    teach: str
    ways: tuple[Way, ...]


def run_plan(run: PlanRun) -> Plan:
    """Plan the defense of a student, whose config is read if it is not known here."""
    if not Path(run.student).expanduser().is_dir():
        run = run.model_copy(update={"student": known_student(run.student) or run.student})
    sizes = count(run.student, run.adapter, run.labels)
    load = Load(
        sizes=sizes,
        batch=run.batch_size,
        length=run.max_length,
        dropout=run.adapter.lora_dropout > 0,
        bytes=4 if run.dtype == "float32" else 2,
    )
    names = (*(SEVERAL if run.gpus > 1 else ()), "single", "4bit")
    teach = shlex.join(["w2s", "teach", "--model", run.student, "--output", TEACHER])
    return Plan(run, sizes, teach, tuple(_way(name, run, load) for name in names))


def count(student: str, adapter: AdapterConfig, labels: int) -> Sizes:
    """Count the parameters of a student (of `STUDENTS`, a folder, a hub id) with its adapter."""
    from w2sdefense.models.sizes import read_config, skeleton_sizes

    config = STUDENTS.get(student) or read_config(student)
    return skeleton_sizes(student, config, adapter, labels)


def _way(name: WayName, run: PlanRun, load: Load) -> Way:
    devices = run.gpus if name in SEVERAL else 1
    needed = memory(name, load, devices, run.labels)
    fits = needed.fits(run.gpu_memory * GIB)
    command = None if fits == "no" else _command(name, run, checkpointing=fits != "yes")
    return Way(name, devices, needed, fits, command)


def _command(name: WayName, run: PlanRun, *, checkpointing: bool) -> str:
    defend = ["defend", *_flags(run), "--teacher-folder", TEACHER, "--output", "runs/defended"]
    if checkpointing:
        defend.append("--gradient-checkpointing")
    if name == "4bit":
        defend.append("--load-in-4bit")
    if name in ("fsdp", "zero3", "4bit"):
        # They are folded into the weights, which these ways do not allow.
        defend += ["--decoys-per-label", "0"]
    starter = ["w2s"]
    if name == "ddp":
        starter = ["torchrun", "--nproc-per-node", str(run.gpus), "-m", "w2sdefense"]
    elif name in LAUNCHERS:
        config = ["--config_file", str(launcher(name)), "--num_processes", str(run.gpus)]
        starter = ["accelerate", "launch", *config, "-m", "w2sdefense"]
    return shlex.join([*starter, *defend])


def launcher(name: WayName) -> Any:
    """Path of the configuration for `accelerate launch`, as it is installed."""
    return files("w2sdefense") / "launchers" / LAUNCHERS[name]


def _flags(run: PlanRun) -> list[str]:
    """The flags of `w2s defend` that say the same as those of the plan."""
    flags = ["--model", run.student, "--dtype", run.dtype]
    flags += ["--batch-size", str(run.batch_size), "--max-length", str(run.max_length)]
    defaults = AdapterConfig()
    for name, field in AdapterConfig.model_fields.items():
        value = getattr(run.adapter, name)
        if value == getattr(defaults, name):
            continue
        if mark_of(field, "advanced"):
            flags += ["--set", f"adapter.{name}={value}"]
        else:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan, as tables and commands or as JSON with all memory in bytes."""
    console = Console(markup=False, soft_wrap=True)
    if as_json:
        console.print_json(json.dumps(as_dict(plan)))
        return
    console.print(_parameters(plan.sizes), highlight=False)
    console.print(_table(plan))
    console.print(_legend(plan.run), style="dim", highlight=False)
    console.print("\nFirst, the teacher; it needs little:", style="bold")
    console.print(f"  {plan.teach}", highlight=False)
    for way in plan.ways:
        if way.command is not None:
            console.print(f"{TITLES[way.name]}:", style="bold", highlight=False)
            console.print(f"  {way.command}", highlight=False)
    console.print(
        "--model is the classifier under suspicion, of this shape; add --dataset, --trigger and "
        "--target.",
        style="dim",
        highlight=False,
    )


def as_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    ways = [
        {
            **dataclasses.asdict(way),
            "peak": way.memory.peak(checkpointing=False),
            "peak_checkpointed": way.memory.peak(checkpointing=True),
        }
        for way in plan.ways
    ]
    sizes = dataclasses.asdict(plan.sizes)
    totals = {"total": plan.sizes.total, "trainable": plan.sizes.trainable}
    settings = plan.run.model_dump(mode="json", exclude={"json_output"})
    return {"settings": settings, "parameters": sizes | totals, "teach": plan.teach, "ways": ways}


def _parameters(sizes: Sizes) -> str:
    share = 100 * sizes.trainable / sizes.total
    writes = "" if sizes.language_model is None else f"language model {sizes.language_model:,}, "
    return (
        f"{sizes.model}: {writes}classifier with adapter {sizes.total:,} parameters, "
        f"{sizes.trainable:,} of them trained ({share:.2f} %)"
    )


def _table(plan: Plan) -> Table:
    table = Table(box=box.ROUNDED, title="GiB on every GPU, estimated")
    table.add_column("")
    for way in plan.ways:
        several = f" x{way.devices}" if way.devices > 1 else ""
        table.add_column(TITLES[way.name] + several, justify="right")
    memories = [way.memory for way in plan.ways]
    for title, field in (
        ("frozen weights", "weights"),
        ("adapter and head", "adapter"),
        ("their gradients", "gradients"),
        ("AdamW", "optimizer"),
        ("teacher's targets", "targets"),
        ("activations", "activations"),
        ("... checkpointed", "checkpointed"),
        ("measuring", "measuring"),
    ):
        table.add_row(title, *(_gib(getattr(one, field)) for one in memories))
    table.add_section()
    table.add_row("peak", *(_gib(one.peak(checkpointing=False)) for one in memories))
    table.add_row("... checkpointed", *(_gib(one.peak(checkpointing=True)) for one in memories))
    answers = (way.fits.replace("with gradient checkpointing", "checkpointed") for way in plan.ways)
    table.add_row("fits", *answers)
    return table


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"


def _legend(run: PlanRun) -> str:
    return (
        f"Of {run.gpu_memory:g} GiB, {RESERVE:.0%} are left free. {run.batch_size} rows of "
        f"{run.max_length} tokens per GPU, {run.dtype}. Parameters are exact, memory is estimated. "
        "Checkpointed: --gradient-checkpointing, 30 % more time. Measuring: the whole model is on "
        "every GPU before and after training, however it is trained."
    )
