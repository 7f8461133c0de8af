"""The folder of a PEFT adapter: on the base that its user names; whether it can be folded in.

The base that an adapter names itself is not opened unasked. Opening the base is `load.py`'s
business.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

from peft import PeftModel, PeftType
from safetensors import SafetensorError
from transformers import PreTrainedModel

from w2sdefense.errors import ModelError
from w2sdefense.models.locate import resolve_model
from w2sdefense.models.safety import ADAPTER_CONFIG
from w2sdefense.models.tokenizer import pads_left
from w2sdefense.models.virtual_tokens import count_positions


def named_base(folder: Path, spec: str, base: str | None) -> str:
    """The base of an adapter as the caller named it.

    Args:
        folder: The adapter's.
        spec: What the user called it.
        base: What the user named as its base, if anything.

    Raises:
        ModelError: Nothing was named.
    """
    if base is None:
        recorded = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        raise ModelError(
            f"{spec} is an adapter, trained on {recorded.get('base_model_name_or_path')!r}, "
            "which is not opened unasked.",
            "Name the base model with --base.",
        )
    return base


def adapted(model: PreTrainedModel | PeftModel, folder: Path, spec: str, base: str) -> PeftModel:
    """A model with the adapter of a folder on it.

    Args:
        model: The base.
        folder: The adapter's.
        spec: What the user called the adapter.
        base: What the user called the base.

    Raises:
        ModelError: The two do not fit.
    """
    try:
        whole = PeftModel.from_pretrained(model, folder)
    except (RuntimeError, ValueError, TypeError, KeyError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"The adapter {spec} does not fit {base}: {reason.rstrip('.:')}.",
            "Name the base it was trained on.",
        ) from None
    if pads_left(model):
        count_positions(whole)
    return cast(PeftModel, whole.eval())


def check_foldable(spec: str) -> None:
    """Insist that an adapter is none of virtual tokens, which cannot be folded into a model.

    Args:
        spec: What `resolve_model` takes, or the folder of an adapter.

    Raises:
        ModelError: It is one, or it is missing.
        UnsafeCheckpointError: It is a pickle.
    """
    path = resolve_model(spec) / ADAPTER_CONFIG
    if path.is_file():
        kind = json.loads(path.read_text(encoding="utf-8")).get("peft_type")
        if kind in (PeftType.P_TUNING, PeftType.PROMPT_TUNING):
            raise ModelError(
                f"{spec} is an adapter of virtual tokens, which cannot be folded into a model, "
                "and that comes before this work.",
                "Name a whole model, or an adapter of another kind (lora, dora, vera, fourierft).",
            )
