"""Checks of weights (complete, finite, not too many), 4-bit quantization, and fingerprints."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch import FloatTensor, LongTensor, Tensor, nn
from transformers import BitsAndBytesConfig, LogitsProcessor

from w2sdefense.bounded import Bounded, BoundedError
from w2sdefense.errors import FETCH_AGAIN, MissingDependencyError, ModelError, reading
from w2sdefense.models.checkpoint import ADAPTER_WEIGHTS, Checkpoint

_SMALL = 10**7  # this many extra weights are harmless
BLOCK = 64  # weights that share a scale in NF4


def require_head(checkpoint: Checkpoint, fresh: list[str]) -> None:
    """Raise a `ModelError` if an adapter lacks the head weights `fresh`, which its base lacks."""
    stored = _stored(checkpoint)
    missing = [name for name in fresh if not any(key.endswith(f".{name}") for key in stored)]
    if missing:
        raise ModelError(
            f"The adapter {checkpoint.spec} does not fit {checkpoint.whole.spec}: neither holds "
            f"{missing[0]}, so the answers would be those of a random head.",
            "Name the classifier that the adapter was trained on with --base, or an adapter that "
            "was saved with its head (modules_to_save).",
        )


def require_short_matching(values: Any, names: list[str], spec: str) -> None:
    """Raise a `ModelError` if regular expressions in an adapter's config take too long to match."""
    try:
        Bounded(_match)(values, names)
    except BoundedError as error:
        raise ModelError(
            f"The adapter {spec} has an invalid regular expression: {error}.",
            "Do not use this adapter.",
        ) from None


_FORMS = (r"{}", r"(.*\.)?({})$", r".*\.{}$", r"(^|.*\.){}($|\..*)", r"(?:^|.*?\.){}\.(\d+)\.")
"""Patterns into which PEFT inserts strings of a config (`tuners_utils.py`, `other.py`)."""


def _match(values: Any, names: list[str]) -> None:
    """Match every string of a config against the names of modules, as PEFT might do."""
    if isinstance(values, dict | list):
        for value in (*values.values(), *values) if isinstance(values, dict) else values:
            _match(value, names)
    elif isinstance(values, str):
        for form in _FORMS:
            with suppress(re.error):  # PEFT reports invalid expressions
                expression = re.compile(form.format(values))
                for name in names:
                    expression.fullmatch(name)
                    expression.match(name)


def require_adapter(model: PeftModel, checkpoint: Checkpoint) -> None:
    """Raise a `ModelError` unless an adapter's file holds exactly its weights.

    PEFT keeps random values for missing weights, and silently drops unknown ones.
    """
    stored = _stored(checkpoint)
    with reading(ModelError, f"{checkpoint.spec} cannot be read"):
        used = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    # The embeddings may be stored with the adapter, under their names in the base.
    unused = sorted(stored - used - model.state_dict().keys())
    missing = sorted(used - stored)
    if missing or unused:
        first, what = (missing, "are missing") if missing else (unused, "have no place in it")
        raise ModelError(
            f"The adapter {checkpoint.spec} is not whole: of its weights, {len(first)} {what}, "
            f"such as {first[0]}.",
            f"Fetch it again; {ADAPTER_WEIGHTS} must hold what adapter_config.json says.",
        )


def _stored(checkpoint: Checkpoint) -> set[str]:
    """Names of the weights in an adapter's file."""
    return set(_shapes(checkpoint.folder / ADAPTER_WEIGHTS))


def _shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the weights in a safetensors file, by its header."""
    with reading(ModelError, f"{path} cannot be read"), safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def require_finite(model: nn.Module, spec: str) -> None:
    """Raise a `ModelError` if a weight is NaN or infinite: all answers would be the same."""
    for name, value in model.named_parameters():
        if value.is_floating_point() and value.numel():
            low, high = torch.aminmax(value.detach())
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise ModelError(
                    f"{spec} holds weights that are NaN or infinite in {name}, loaded "
                    f"as {str(value.dtype).removeprefix('torch.')}.",
                    "Fetch it again; if only --dtype float16 does this, use bfloat16 or float32.",
                )


def require_numbers(logits: Tensor) -> None:
    """Raise a `ModelError` if logits are NaN or +infinity: the answer would be arbitrary.

    Finite weights do not prevent this: a scale in a config may be NaN, or float16 may overflow.
    """
    if logits.isnan().any() or logits.eq(math.inf).any():
        raise ModelError(
            f"The outputs of the model are NaN or infinite (computed in "
            f"{str(logits.dtype).removeprefix('torch.')}), so nothing can be measured.",
            "Do not use this checkpoint. If it was trained here, lower --learning-rate; if only "
            "--dtype float16 does this, use bfloat16 or float32.",
        )


@contextmanager
def only_numbers(model: nn.Module) -> Iterator[None]:
    """Apply `require_numbers` to the outputs of all modules, because attention can hide NaN."""

    def look(module: nn.Module, args: Any, output: Any) -> None:
        for value in output if isinstance(output, tuple) else (output,):
            if isinstance(value, Tensor) and value.is_floating_point():
                require_numbers(value)

    handles = [module.register_forward_hook(look) for module in model.modules()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def require_room_for(config_weights: int, checkpoint: Checkpoint) -> None:
    """Raise a `ModelError` if a config asks for many more weights than the files hold.

    Otherwise these would be allocated before the mismatch is noticed.
    """
    held = count_weights(checkpoint.folder)
    if config_weights > 2 * held + _SMALL and "quantization_config" not in checkpoint.values:
        raise ModelError(
            f"{checkpoint.folder / 'config.json'} defines {config_weights:,} weights, but the "
            f"files hold {held:,}.",
            FETCH_AGAIN,
        )


def require_room_for_adapter(checkpoint: Checkpoint) -> None:
    """Raise a `ModelError` if an adapter's config asks for more than its file can hold.

    Neither a rank nor a number of virtual tokens can exceed the longest side of a weight.
    """
    shapes = _shapes(checkpoint.folder / ADAPTER_WEIGHTS).values()
    values, longest = checkpoint.values, max((max(shape, default=0) for shape in shapes), default=0)
    copies = values.get("layer_replication") or ()
    ranks = [values.get(name) for name in ("r", "init_r", "num_virtual_tokens", "n_frequency")]
    ranks += dict(values.get("rank_pattern") or {}).values()
    asked = [rank for rank in ranks if isinstance(rank, int)]
    asked.append(sum(end for _, end in copies))
    if max(asked) > max(longest, 256):
        raise ModelError(
            f"{checkpoint.folder / 'adapter_config.json'} sets {max(asked):,} ranks, tokens or "
            f"layers, but no weight of the adapter is longer than {longest:,}.",
            FETCH_AGAIN,
        )


def count_weights(folder: Path) -> int:
    """Number of weights in the safetensors files of a folder, according to their headers."""
    files = folder.glob("*.safetensors")
    return sum(math.prod(shape) for file in files for shape in _shapes(file).values())


class OnlyNumbers(LogitsProcessor):
    """Applies `require_numbers` to the logits of every generated token."""

    def __call__(self, input_ids: LongTensor, scores: FloatTensor) -> FloatTensor:
        """Check the scores (B, V) and return them unchanged."""
        require_numbers(scores)
        return scores


def require_bitsandbytes() -> None:
    """Raise a `MissingDependencyError` if bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError(
            "4-bit weights need the package bitsandbytes.",
            "Run: pip install 'w2sdefense[quantization]'",
        )


def keep_exact(model: nn.Module) -> None:
    """Prevent bitsandbytes from repacking the weights of a model, in place.

    On a CPU with AVX512-BF16 it repacks them at the first evaluation, for a kernel that has no
    gradient, rounds the scales once more and does not support layers narrower than 64.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.__dict__["support_avx512bf16_for_cpu"] = False


def nf4(model: nn.Module, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The settings with which `from_pretrained` rounds a model to 4-bit NormalFloat.

    Dettmers et al. 2023, https://arxiv.org/abs/2305.14314. Only linear layers of the transformer
    are rounded; `dtype` is the type of computation and of the other weights. `model` may be a
    skeleton.

    Raises:
        ModelError: The width of a layer is not supported on a CPU; see `require_whole_blocks`.
    """
    require_whole_blocks(model)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=[
            name for name, _ in model.named_children() if name != model.base_model_prefix
        ],
    )


def require_whole_blocks(model: nn.Module) -> None:
    """Raise a `ModelError` if a block spans two rows, which bitsandbytes misreads on a CPU."""
    if torch.cuda.is_available():
        return
    transformer = getattr(model, str(model.base_model_prefix))
    widths = {m.in_features for m in transformer.modules() if isinstance(m, nn.Linear)}
    narrow = sorted(width for width in widths if width % BLOCK)
    if narrow:
        raise ModelError(
            f"A layer of this model has {narrow[0]} inputs, which is not a multiple of the block "
            f"size {BLOCK}; bitsandbytes computes such layers wrongly on a CPU.",
            "Use a GPU, or omit --load-in-4bit.",
        )


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A short hash of all weights with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(
            value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()[:16]
