"""Where a model computes: on a GPU if there is one."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from w2sdefense.models.adapters import is_quantized

M = TypeVar("M", bound=nn.Module)


def to_gpu(model: M) -> M:
    """A model on the GPU if there is one; one of four bits stays where it was opened."""
    if torch.cuda.is_available() and not is_quantized(model):
        return model.to("cuda")
    return model
