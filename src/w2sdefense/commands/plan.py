"""`w2s plan`: a student's parameters, what every way of running it needs, and the commands.

Parameters are counted exactly, on a skeleton of the student (`models/sizes.py`). Bytes are
estimates: they follow from what PyTorch, PEFT, FSDP2 and DeepSpeed keep by their documentation and
source, and were not measured on a GPU. A classifier is planned, without the logits over a
vocabulary.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from w2sdefense.commands.runs import PlanRun
from w2sdefense.config import AdapterConfig, mark_of
from w2sdefense.models.sizes import STUDENTS, Sizes, known_student, read_config, skeleton_sizes

WayName = Literal["single", "ddp", "fsdp", "zero3", "4bit"]
Fits = Literal["yes", "with gradient checkpointing", "no"]

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

GIB = 1024**3
RESERVE = 0.1
"""Share of a device that is left to the CUDA context, workspaces and fragmentation; a guess."""

FLOAT32 = 4
NF4_BITS = 4.5
"""4-bit NormalFloat: 4 bits, and one float32 scale for every 64 weights, without double
quantization (Dettmers et al. 2023, Section 3, https://arxiv.org/abs/2305.14314)."""

ZERO3_LIVE = 10**9
"""Parameters that ZeRO-3 keeps gathered at most: `stage3_max_live_parameters` by default."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, estimated."""

    weights: int  # frozen weights, with what is gathered of them at once
    adapter: int  # trained weights: adapter and head, in float32
    gradients: int  # their gradients, and the buckets that DDP sends them in
    optimizer: int  # the two moments of AdamW
    targets: int  # the teacher's output for a batch
    activations: int  # what the backward pass needs of the forward pass
    checkpointed: int  # the same with gradient checkpointing
    # The whole model in evaluation. It is opened and measured on every device, before training and
    # after it, however it is trained.
    measuring: int

    def peak(self, *, checkpointing: bool) -> int:
        """The larger of training and measuring."""
        fixed = self.weights + self.adapter + self.gradients + self.optimizer + self.targets
        kept = self.checkpointed if checkpointing else self.activations
        return max(fixed + kept, self.measuring)

    def fits(self, device: float) -> Fits:
        """Whether it fits on a device of so many bytes, less the reserve."""
        room = device * (1 - RESERVE)
        if self.peak(checkpointing=False) <= room:
            return "yes"
        return "with gradient checkpointing" if self.peak(checkpointing=True) <= room else "no"


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
    config = STUDENTS.get(run.student) or read_config(run.student)
    sizes = skeleton_sizes(run.student, config, run.adapter, run.labels)
    names: list[WayName] = [*(SEVERAL if run.gpus > 1 else ()), "single", "4bit"]
    ways = []
    for name in names:
        needed = memory(name, sizes, run)
        fits = needed.fits(run.gpu_memory * GIB)
        command = None if fits == "no" else _command(name, run, checkpointing=fits != "yes")
        ways.append(Way(name, run.gpus if name in SEVERAL else 1, needed, fits, command))
    teach = shlex.join(["w2s", "teach", "--model", run.student, "--output", TEACHER])
    return Plan(run, sizes, teach, tuple(ways))


def memory(way: WayName, sizes: Sizes, run: PlanRun) -> Memory:
    """Estimate the memory on one device.

    Trained parameters take 16 bytes each: weight, gradient and two moments in float32 (PEFT keeps
    adapters in float32 under half precision; Rajbhandari et al. 2020, Section 3.1,
    https://arxiv.org/abs/1910.02054, comes to the same 16). FSDP and ZeRO-3 cut these and the
    frozen weights into as many parts as there are devices, and gather some of the weights for a
    moment: FSDP2 the next piece while one is computed
    (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html), ZeRO-3 up to
    `ZERO3_LIVE` parameters. A layer of 4 bits is restored for its matrix product.
    """
    parts = run.gpus if way in ("fsdp", "zero3") else 1
    size, trained = _bytes(run), FLOAT32 * sizes.trainable
    frozen = size * (sizes.backbone + sizes.head)
    gathered = {
        "fsdp": min(2 * sizes.largest, sizes.backbone),
        "zero3": min(ZERO3_LIVE, sizes.backbone),
        "4bit": sizes.width * sizes.intermediate,
    }
    if way == "4bit":
        frozen += int(sizes.linear * NF4_BITS / 8) - size * sizes.linear
    layer = layer_activations(sizes, run)
    return Memory(
        weights=frozen // parts + size * gathered.get(way, 0),
        adapter=trained // parts,
        gradients=trained * (2 if way == "ddp" else 1) // parts,
        optimizer=2 * trained // parts,
        targets=FLOAT32 * run.batch_size * (run.labels + sizes.width),
        activations=sizes.layers * layer,
        checkpointed=checkpointed_activations(sizes, run),
        # Two layers' worth of states are alive at a time, and nothing is kept for a backward pass.
        measuring=frozen + trained + 2 * layer,
    )


def layer_activations(sizes: Sizes, run: PlanRun) -> int:
    """Bytes that autograd keeps of one layer for the backward pass.

    Korthikanti et al. 2022 (https://arxiv.org/abs/2205.05198, Section 4.1) count them for a GPT
    that is trained whole. Here the weights are frozen, so a linear layer keeps nothing of its input
    but for its adapter; attention is fused and keeps q, k, v, its output and a sum per head; norms
    compute in float32. Per token, with c bytes in the compute type, d, i, q and k the widths of
    states, MLP, queries and keys:

        2 norms             2 * 4 d
        attention           c (2 q + 2 k)
        MLP                 c * 3 i if it has a gate, else c * i
        adapted linears     c (inputs + ranks), and a mask of 1 byte per input with dropout

    The mask has four bytes on a CPU. In float32 without dropout the adapters of q, k and v keep one
    input together, so that this is up to a fifth too much.
    """
    c = _bytes(run)
    norms = 2 * FLOAT32 * sizes.width
    attention = c * (2 * sizes.queries + 2 * sizes.keys)
    mlp = c * (3 if sizes.gated else 1) * sizes.intermediate
    mask = sizes.adapted_inputs if run.adapter.lora_dropout > 0 else 0
    adapters = (c * (sizes.adapted_inputs + sizes.adapted_ranks) + mask) // sizes.layers
    return run.batch_size * run.max_length * (norms + attention + mlp + adapters)


def checkpointed_activations(sizes: Sizes, run: PlanRun) -> int:
    """Bytes that are kept with gradient checkpointing: every layer's input, and one layer whole.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    inputs = sizes.layers * run.batch_size * run.max_length * sizes.width * _bytes(run)
    return inputs + layer_activations(sizes, run)


def _bytes(run: PlanRun) -> int:
    """Bytes of a frozen weight."""
    return 4 if run.dtype == "float32" else 2


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
    for name, value in run.adapter.model_dump(exclude_defaults=True).items():
        if mark_of(AdapterConfig.model_fields[name], "advanced"):
            flags += ["--set", f"adapter.{name}={value}"]
        else:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


def show_plan(plan: Plan, *, as_json: bool) -> None:
    """Print a plan, as tables and commands or as JSON with all memory in bytes."""
    console = Console(markup=False, soft_wrap=True, highlight=False)
    if as_json:
        console.print_json(json.dumps(as_dict(plan)))
        return
    run, sizes = plan.run, plan.sizes
    writes = "" if sizes.language_model is None else f"language model {sizes.language_model:,}, "
    console.print(
        f"{sizes.model}: {writes}classifier with adapter {sizes.total:,} parameters, "
        f"{sizes.trainable:,} of them trained ({100 * sizes.trainable / sizes.total:.2f} %)"
    )
    console.print(_table(plan))
    console.print(
        f"Of {run.gpu_memory:g} GiB, {RESERVE:.0%} are left free. {run.batch_size} rows of "
        f"{run.max_length} tokens per GPU, {run.dtype}. Parameters are exact, memory is estimated. "
        "Checkpointed: --gradient-checkpointing, 30 % more time. Measuring: the whole model is on "
        "every GPU before and after training, however it is trained.",
        style="dim",
    )
    console.print("\nFirst, the teacher; it needs little:", style="bold")
    console.print(f"  {plan.teach}")
    for way in plan.ways:
        if way.command is not None:
            console.print(f"{TITLES[way.name]}:", style="bold")
            console.print(f"  {way.command}")
    console.print(
        "--model is the classifier under suspicion, of this shape; add --dataset, --trigger and "
        "--target.",
        style="dim",
    )


def as_dict(plan: Plan) -> dict[str, Any]:
    """A plan as plain values."""
    peaks = {"peak": False, "peak_checkpointed": True}
    ways = [
        asdict(way) | {name: way.memory.peak(checkpointing=on) for name, on in peaks.items()}
        for way in plan.ways
    ]
    totals = {"total": plan.sizes.total, "trainable": plan.sizes.trainable}
    settings = plan.run.model_dump(mode="json", exclude={"json_output"})
    parameters = asdict(plan.sizes) | totals
    return {"settings": settings, "parameters": parameters, "teach": plan.teach, "ways": ways}


def _table(plan: Plan) -> Table:
    table = Table("", box=box.ROUNDED, title="GiB on every GPU, estimated")
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
