"""Captures the input of a classifier's head: the final hidden state at one position.

The feature `h_s` of the paper is the last hidden state of the transformer at the last real token
(decoders) or at the first token (encoders; with virtual tokens, the first of these). A hook
captures it in the ordinary forward pass, because `output_hidden_states` would keep the outputs of
all layers in memory.

Decoders are padded on the left, so the last real token is in the last column. `transformers`
instead looks for the last token that is not the padding token. That is another one if padding is
the end-of-text token and a text ends with it. The hook therefore captures the logits of all
positions, too, and `logits` reads them at the position of `feature`.
"""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any, Self

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.pytorch_utils import Conv1D

from w2sdefense.errors import ModelError
from w2sdefense.models.tokenizer import Tokenizer, encode, reads_last_token, require_known
from w2sdefense.models.weights import only_numbers

_FIRST = {"eurobert": "bos"}  # families whose config names the first token other than `cls`
_ANY_TEXT = "a text of a few words"


def backbone_of(model: nn.Module) -> Any:
    """The transformer inside a model, without its head and without PEFT's wrapper."""
    base = _base_of(model)
    return getattr(base, base.base_model_prefix)


def mlp_width(config: PretrainedConfig) -> int:
    """Number of units of an MLP; families use four config names, and GPT-2 defaults to 4 d."""
    names = ("intermediate_size", "ffn_dim", "n_inner", "hidden_dim")
    width = next((w for name in names if (w := getattr(config, name, None))), None)
    return int(width or 4 * config.hidden_size)


def linear_layers(model: nn.Module) -> dict[str, Any]:
    """The linear layers of the transformer inside a model, by their names in the model.

    Layers of the head (such as DistilBERT's `pre_classifier`) are not included.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name.startswith(f"{model.base_model_prefix}.")
    }


def outputs_first(module: nn.Module, matrix: Tensor) -> Tensor:
    """Convert a linear layer's matrix to (outputs, inputs), or back; GPT-2 stores the transpose."""
    return matrix.t() if isinstance(module, Conv1D) else matrix


def _base_of(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


class FeatureTap:
    """Captures the last output of a model's transformer and, for a decoder, of its head.

    Use it as a context manager around forward passes of a classifier or a language model, possibly
    wrapped (PEFT, DDP, FSDP). Decoder inputs must be padded on the left.
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
        """The position that the classifier reads; computed late, as some families have none."""
        return -1 if reads_last_token(self._backbone.config) else 0

    def token_states(self) -> Tensor:
        """Final hidden states at every position, including virtual tokens: (B, L, d)."""
        if self._tokens is None:
            raise RuntimeError("no forward pass has run inside the tap")
        return self._tokens

    def feature(self) -> Tensor:
        """The final hidden state that the classifier read: (B, d) in float32."""
        return self.token_states()[:, self._position].to(torch.float32)

    def logits(self, pooled: Tensor) -> Tensor:
        """The logits that the head computes from `feature`: (B, C) in float32.

        Args:
            pooled: The logits (B, C) in the model's own output; for an encoder these are the
                result.
        """
        if self._token_logits is None or self._token_logits.dim() == 2:
            return pooled.float()
        return self._token_logits[:, -1].float()


def require_one_position(model: Any, tokenizer: Tokenizer, spec: str) -> None:
    """Raise a `ModelError` unless the head of a classifier reads only `FeatureTap.feature`.

    Changes the final states at all other positions, which must not change the logits. BART and T5,
    for example, read the last token of their decoder.
    """

    def change(module: nn.Module, args: Any, output: Any) -> Any:
        name = next(iter(output.keys()))
        states = output[name]
        output[name] = 1 - states
        output[name][:, tap._position] = states[:, tap._position]
        return output

    tokens, _ = encode(tokenizer, [_ANY_TEXT], 16)
    require_known(model, tokens)
    ids = torch.tensor(tokens, device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.inference_mode(), FeatureTap(model) as tap:
        with only_numbers(model):
            as_is = tap.logits(model(**inputs).logits)
        handle = tap._backbone.register_forward_hook(change)
        changed = tap.logits(model(**inputs).logits)
        handle.remove()
    if not torch.allclose(as_is, changed, rtol=1e-3, atol=1e-3):
        raise ModelError(
            f"The head of {spec} ({type(model).__name__}) does not read the "
            f"{'last' if tap._position else 'first'} token only, at which features are taken.",
            "Use a classifier that reads its first token (such as BERT) or its last one (Llama).",
        )


def read_first_token(config: PretrainedConfig) -> None:
    """Make a fresh head read the first token, in families that can also pool all tokens."""
    if hasattr(config, "classifier_pooling"):
        config.classifier_pooling = _first_token(config)


def require_first_token(config: PretrainedConfig, spec: str) -> None:
    """Raise a `ModelError` if the config says that a trained head pools all tokens."""
    first = _first_token(config)
    pooling = getattr(config, "classifier_pooling", first)
    if pooling != first:
        raise ModelError(
            f"{spec} classifies by all tokens of a text (classifier_pooling: {pooling}), but "
            "features are taken at a single token.",
            f"Use a model that was trained with classifier_pooling: {first}.",
        )


def _first_token(config: PretrainedConfig) -> str:
    return _FIRST.get(config.model_type, "cls")
