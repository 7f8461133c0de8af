"""What a run of W2SDefense needs in memory on every device, and whether it fits.

Parameters are counted exactly (`models/sizes.py`). Bytes are estimates: they follow from what
PyTorch, PEFT, FSDP2 and DeepSpeed keep by their documentation and source, and were not measured on
a GPU. Pure arithmetic; a classifier is planned, without the logits over a vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from w2sdefense.models.sizes import Sizes

WayName = Literal["single", "ddp", "fsdp", "zero3", "4bit"]
Fits = Literal["yes", "with gradient checkpointing", "no"]

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
class Load:
    """How a student is run."""

    sizes: Sizes  # its parameters
    batch: int  # rows per step and device, of so many tokens (`length`)
    length: int
    dropout: bool  # whether the adapter has dropout, whose mask is kept
    bytes: int  # bytes of a weight: 2 in half precision, 4 in float32


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, estimated."""

    weights: int  # frozen weights, with what is gathered of them at once
    adapter: int  # trained weights: adapter and head, in float32
    gradients: int  # their gradients, and the buckets that DDP sends them in
    optimizer: int  # the two moments of AdamW
    activations: int  # what the backward pass needs of the forward pass
    checkpointed: int  # the same with gradient checkpointing
    targets: int  # the teacher's output for a batch
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


def memory(way: WayName, load: Load, devices: int, labels: int) -> Memory:
    """Estimate the memory on one device.

    Trained parameters take 16 bytes each: weight, gradient and two moments in float32 (PEFT keeps
    adapters in float32 under half precision; Rajbhandari et al. 2020, Section 3.1,
    https://arxiv.org/abs/1910.02054, comes to the same 16). FSDP and ZeRO-3 cut these and the
    frozen weights into as many parts as there are devices; `single` and `4bit` use one.
    """
    sizes = load.sizes
    parts = devices if way in ("fsdp", "zero3") else 1
    trained = FLOAT32 * sizes.trainable
    whole = _frozen(way, load)
    targets = FLOAT32 * load.batch * (labels + sizes.width)
    return Memory(
        weights=whole // parts + _gathered(way, load),
        adapter=trained // parts,
        gradients=trained * (2 if way == "ddp" else 1) // parts,
        optimizer=2 * trained // parts,
        activations=sizes.layers * layer_activations(load),
        checkpointed=checkpointed_activations(load),
        targets=targets,
        # Two layers' worth of states are alive at a time, and nothing is kept for a backward pass.
        measuring=whole + trained + 2 * layer_activations(load),
    )


def _frozen(way: WayName, load: Load) -> int:
    """Bytes of the frozen weights: the transformer and the original head."""
    sizes = load.sizes
    frozen = sizes.backbone + sizes.head
    if way != "4bit":
        return load.bytes * frozen
    return int(sizes.linear * NF4_BITS / 8) + load.bytes * (frozen - sizes.linear)


def _gathered(way: WayName, load: Load) -> int:
    """Bytes of frozen weights that are whole for a moment.

    FSDP2 gathers the next piece while one is computed
    (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html); ZeRO-3 keeps up to
    `ZERO3_LIVE` parameters; a layer of 4 bits is restored for its matrix product.
    """
    sizes = load.sizes
    if way == "fsdp":
        return load.bytes * min(2 * sizes.largest, sizes.backbone)
    if way == "zero3":
        return load.bytes * min(ZERO3_LIVE, sizes.backbone)
    if way == "4bit":
        return load.bytes * sizes.width * sizes.intermediate
    return 0


def layer_activations(load: Load) -> int:
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
    sizes, c = load.sizes, load.bytes
    norms = 2 * FLOAT32 * sizes.width
    attention = c * (2 * sizes.queries + 2 * sizes.keys)
    mlp = c * (3 if sizes.gated else 1) * sizes.intermediate
    mask = sizes.adapted_inputs if load.dropout else 0
    adapters = (c * (sizes.adapted_inputs + sizes.adapted_ranks) + mask) // sizes.layers
    return load.batch * load.length * (norms + attention + mlp + adapters)


def checkpointed_activations(load: Load) -> int:
    """Bytes that are kept with gradient checkpointing: every layer's input, and one layer whole.

    Chen et al. 2016, https://arxiv.org/abs/1604.06174.
    """
    inputs = load.sizes.layers * load.batch * load.length * load.sizes.width * load.bytes
    return inputs + layer_activations(load)
