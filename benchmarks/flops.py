"""What a LoRA training step costs in floating-point operations, and what the machine can do.

Counted are matrix products, forwards and backwards, as everybody does who reports a share of peak
(a multiply-add is 2). Not counted: norms, softmax, rotary embeddings, dropout, AdamW. Nothing is
recomputed, so a backward pass that recomputes attention scores gets no credit for it.

Per token, for every linear layer W (in x out) of the decoder with a LoRA pair A (r x in), B (out x
r):

    forward             2 in out              x W'
                      + 2 r (in + out)        (x A') B'
    backward, input     2 in out              g W            W is frozen: no gradient of W
                      + 2 r (in + out)        (g B) A
    backward, adapter   2 r (in + out)        gradients of A and B

The first layer's q, k and v read the frozen embedding, whose gradient nobody wants: `g W` and the
product with A fall away there. The classification head (d x C) is applied to every token and is
trained, 6 d C per token. Attention multiplies an L x L matrix with the heads twice forwards and
four times backwards, 12 L^2 heads head_dim per text and layer; the causal half is not subtracted.

`tests/benchmarks` checks the formula against `torch.utils.flop_counter`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear

LINEARS_PER_LAYER = 7
READS_EMBEDDING = ("layers.0.self_attn.q_proj", "layers.0.self_attn.k_proj")
READS_EMBEDDING += ("layers.0.self_attn.v_proj",)


@dataclass(frozen=True)
class TrainingFlops:
    """Operations of one training step on one text of L tokens: `token * L + pair * L^2`."""

    token: int
    pair: int

    def of(self, lengths: Iterable[int]) -> int:
        """Operations for texts of these lengths."""
        return sum(self.token * length + self.pair * length**2 for length in lengths)


def training_flops(student: PeftModel) -> TrainingFlops:
    """The formula above for a Llama-like classifier whose linear layers all carry LoRA.

    Raises:
        ValueError: Some linear layer of the decoder has no adapter; the formula does not hold.
    """
    config = student.config
    linears = {n: m for n, m in student.named_modules() if isinstance(m, LoraLinear)}
    if len(linears) != LINEARS_PER_LAYER * config.num_hidden_layers:
        raise ValueError("the formula is for LoRA on every linear layer of a Llama-like decoder")
    token = 6 * config.hidden_size * config.num_labels
    for name, linear in linears.items():
        frozen = 2 * linear.in_features * linear.out_features
        (r,) = linear.r.values()
        into, out_of = 2 * r * linear.in_features, 2 * r * linear.out_features
        token += 2 * frozen + 3 * (into + out_of)
        if name.endswith(READS_EMBEDDING):
            token -= frozen + into
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pair = 12 * config.num_hidden_layers * config.num_attention_heads * head_dim
    return TrainingFlops(token, pair)


Shape = tuple[int, int, int]
"""(m, k, n) of a product (m x k) (k x n)."""


def product_shapes(student: PeftModel, tokens: int) -> list[Shape]:
    """The products that occur in the forward pass of a batch of so many tokens, and 2048^3."""
    shapes = {(2048, 2048, 2048)}
    for module in student.modules():
        if isinstance(module, LoraLinear):
            (r,) = module.r.values()
            shapes.add((tokens, module.in_features, module.out_features))
            shapes.add((tokens, module.in_features, r))
            shapes.add((tokens, r, module.out_features))
    return sorted(shapes)


def matmul_speed(shape: Shape, seconds: float = 0.25) -> float:
    """Best GFLOP/s of a float32 product `x W'` of this shape within about so many seconds."""
    m, k, n = shape
    x, weight = torch.randn(m, k), torch.randn(n, k)
    best = float("inf")
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        torch.nn.functional.linear(x, weight)
        while True:
            start = time.perf_counter()
            torch.nn.functional.linear(x, weight)
            now = time.perf_counter()
            best = min(best, now - start)
            if now > end:
                return 2 * m * k * n / best / 1e9
