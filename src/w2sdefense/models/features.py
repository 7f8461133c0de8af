"""Reading the feature that a classifier reads: its final hidden state at one position.

Of a language model that writes, all positions are read (`token_states`).

The feature `h_s` of the paper is the last hidden state of the transformer at the last real token
(decoders) or at the first token (encoders). It is caught by a hook while the model runs its
ordinary forward pass: asking for `output_hidden_states` would keep every layer's output alive, at
inference too. With virtual tokens (p-tuning, prompt-tuning) the sequence grows at the front, and
both positions stay what the classifier reads: the first one is a virtual token then, not [CLS].
"""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn

from w2sdefense.models.tokenizer import reads_last_token


def backbone_of(model: nn.Module) -> Any:
    """The transformer inside a model, without its head and without PEFT's wrapper."""
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return getattr(base, base.base_model_prefix)


class FeatureTap:
    """Keeps the latest feature that passed through a classifier's transformer.

    Use it as a context manager around forward passes of the model, or of anything that wraps it
    (DDP, FSDP).

    Args:
        model: A sequence classifier, possibly inside a `PeftModel`. Decoder inputs must be padded
            on the left.
    """

    def __init__(self, model: nn.Module) -> None:
        self._backbone = backbone_of(model)
        self._tokens: Tensor | None = None

    def __enter__(self) -> Self:
        self._handle = self._backbone.register_forward_hook(self._keep)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._handle.remove()
        self._tokens = None

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._tokens = output[0]

    @cached_property
    def _position(self) -> int:
        """Where the classifier reads; what only writes may belong to a family that has none."""
        return -1 if reads_last_token(self._backbone.config) else 0

    def token_states(self) -> Tensor:
        """Final hidden states of the last forward pass at every position, virtual tokens included.

        Returns:
            (B, L, d), attached to the graph if gradients are on.
        """
        if self._tokens is None:
            raise RuntimeError("no forward pass has run inside the tap")
        return self._tokens

    def feature(self) -> Tensor:
        """The final hidden state that the classifier read in the last forward pass.

        Returns:
            (B, d) in float32.
        """
        return self.token_states()[:, self._position].to(torch.float32)
