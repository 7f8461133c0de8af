"""LoRA's linear layer as a single autograd node, for training on a CPU.

PEFT computes `y = x W' + s * drop(x) A' B'` as a chain of small operations. On a CPU each is a pass
over memory, and the dropout mask is drawn element by element. Together that is about a sixth of a
training step of SmolLM2-135M (`benchmarks/train_step.py`). Here the matrix products include the
additions, the scale is applied to the narrow tensors, and 64 random bits give the mask of four
elements. The result is the same up to rounding; the mask has the same distribution but other
values.

This is used only for training in float32 with one unmerged LoRA adapter on a frozen `nn.Linear`. In
all other cases (evaluation, mixed precision, variants such as DoRA), PEFT's own layer runs.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_LEVELS = 1 << 16
"""The mask compares 16 random bits, so a dropout rate is rounded to a multiple of 2^-16."""


class FusedLoraLinear(LoraLinear):
    """PEFT's LoRA layer with a faster training step on a CPU."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The adapted layer: (..., in) -> (..., out)."""
        if args or kwargs or not self._is_plain(x):
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        (name,) = self.active_adapters
        rate = getattr(self.lora_dropout[name], "p", 0.0)
        output: Tensor = _AdaptedLinear.apply(  # type: ignore[no-untyped-call]
            x,
            self.base_layer.weight,
            self.base_layer.bias,
            self.lora_A[name].weight,
            self.lora_B[name].weight,
            self.scaling[name],
            rate,
        )
        return output

    def _is_plain(self, x: Tensor) -> bool:
        """Whether this is the one case that `_AdaptedLinear` computes."""
        if len(self.active_adapters) != 1 or self.active_adapters[0] not in self.lora_A:
            return False
        (name,) = self.active_adapters
        base, a, b = self.base_layer, self.lora_A[name], self.lora_B[name]
        return (
            self.training
            and not (self.disable_adapters or self.merged or name in self.lora_variant)
            and not torch.is_autocast_enabled("cpu")
            and type(base) is nn.Linear
            and all(type(layer) is nn.Linear and layer.bias is None for layer in (a, b))
            and not any(parameter.requires_grad for parameter in base.parameters())
            and all(
                tensor.device.type == "cpu" and tensor.dtype == torch.float32
                for tensor in (x, base.weight, a.weight, b.weight)
            )
            and isinstance(self.lora_dropout[name], nn.Dropout | nn.Identity)
            and getattr(self.lora_dropout[name], "p", 0.0) <= 0.99
        )


class _AdaptedLinear(torch.autograd.Function):
    """y = x W' + bias + s * drop(x) A' B', with W and bias frozen."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scaling: float,
        rate: float,
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        mask, kept = (None, 1.0) if rate == 0.0 else keep_mask(rows.shape, rate)
        dropped = rows if mask is None else rows * mask
        # 1 / kept is the scale of the dropout, applied here because a row has only r elements.
        narrow = (dropped @ a.t()).mul_(scaling / kept)
        output = torch.nn.functional.linear(rows, weight, bias).addmm_(narrow, b.t())
        ctx.save_for_backward(dropped, mask, weight, a, b, narrow)
        ctx.scale, ctx.shape = scaling / kept, x.shape
        return output.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        dropped, mask, weight, a, b, narrow = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        grad_narrow = (rows @ b).mul_(ctx.scale)
        grad_a, grad_b = grad_narrow.t() @ dropped, rows.t() @ narrow
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = rows @ weight
            if mask is None:
                grad_x.addmm_(grad_narrow, a)
            else:
                grad_x.addcmul_(grad_narrow @ a, mask)
            grad_x = grad_x.view(ctx.shape)
        return grad_x, None, None, grad_a, grad_b, None, None


def keep_mask(shape: torch.Size, rate: float) -> tuple[Tensor, float]:
    """A dropout mask from torch's global generator, and the share that it keeps after rounding.

    Returns:
        Ones where an element is kept and zeros elsewhere, in float32; the share.
    """
    count, dropped = math.prod(shape), round(rate * _LEVELS)
    words = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = words.view(torch.int16)[:count]
    mask = torch.ge(bits, dropped - _LEVELS // 2, out=torch.empty(count))
    return mask.view(shape), 1.0 - dropped / _LEVELS
