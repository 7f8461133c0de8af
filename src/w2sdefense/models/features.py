"""Reading what a classifier reads: its final hidden state at one position, and the logits there.

The feature `h_s` of the paper is the last hidden state of the transformer at the last real token
(decoders) or at the first token (encoders). It is caught by a hook while the model runs its
ordinary forward pass: asking for `output_hidden_states` would keep every layer's output alive, at
inference too. Of a language model that writes, all positions are read (`token_states`).

Decoders are padded on the left, so the last real token of the attention mask is in the last column.
`transformers` looks for the last token that is not the padding token instead, which is another one
where padding is the end-of-text token and a text ends with it. The logits of all positions are
therefore caught as well, and `logits` reads them where `feature` reads the state.

With virtual tokens (p-tuning, prompt-tuning) the sequence grows at the front, and both positions
stay what the classifier reads: the first one is a virtual token then, not [CLS].
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
    base = _base_of(model)
    return getattr(base, base.base_model_prefix)


def _base_of(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


class FeatureTap:
    """Keeps what last passed through a model's transformer and, of a decoder, through its head.

    Use it as a context manager around forward passes of the model, or of anything that wraps it
    (DDP, FSDP).

    Args:
        model: A sequence classifier or a language model, possibly inside a `PeftModel`. Decoder
            inputs must be padded on the left.
    """

    def __init__(self, model: nn.Module) -> None:
        self._backbone = backbone_of(model)
        self._head = getattr(_base_of(model), "score", None)
        self._tokens: Tensor | None = None
        self._token_logits: Tensor | None = None

    def __enter__(self) -> Self:
        self._handles = [self._backbone.register_forward_hook(self._keep)]
        if self._head is not None:
            self._handles.append(self._head.register_forward_hook(self._keep_logits))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._tokens = self._token_logits = None

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._tokens = output[0]

    def _keep_logits(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._token_logits = output

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

    def logits(self, pooled: Tensor) -> Tensor:
        """What the head says of `feature` in the last forward pass.

        Args:
            pooled: The logits (B, C) of the model's own output, which an encoder's head reads at
                the first token.

        Returns:
            (B, C) in float32.
        """
        if self._token_logits is None or self._token_logits.dim() == 2:
            return pooled.float()
        return self._token_logits[:, -1].float()
