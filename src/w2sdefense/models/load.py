"""The only module that opens the weights of a checkpoint that `checkpoint.py` resolved.

It refuses models with weights that came from no file (`weights.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any, TypeVar, cast

import torch
from peft import PeftModel
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from w2sdefense.config import Dtype
from w2sdefense.data.checks import are_placeholders, by_position
from w2sdefense.errors import FETCH_AGAIN, ModelError, reading
from w2sdefense.models.adapters import answers_to_ids, count_positions, is_quantized
from w2sdefense.models.checkpoint import Checkpoint, opening, resolve, resolve_whole
from w2sdefense.models.embedded import quiet_transformers
from w2sdefense.models.features import read_first_token, require_first_token, require_one_position
from w2sdefense.models.tokenizer import Tokenizer, load_tokenizer, pads_left
from w2sdefense.models.weights import (
    keep_exact,
    nf4,
    only_numbers,
    require_adapter,
    require_bitsandbytes,
    require_finite,
    require_head,
    require_room_for,
    require_room_for_adapter,
    require_short_matching,
)

# Suffixes of the names of architectures that write text.
CAUSAL, SEQ2SEQ = ("ForCausalLM", "LMHeadModel"), "ForConditionalGeneration"

_BUFFER = re.compile(r"(inv_freq|position_ids|token_type_ids|masked_bias|attn\.bias)$")
"""Buffers that old versions of transformers saved together with the weights."""

M = TypeVar("M", bound=nn.Module)


def to_gpu(model: M) -> M:
    """Move a model to the GPU if there is one; 4-bit models stay on their device."""
    if torch.cuda.is_available() and not is_quantized(model):
        return model.to("cuda")
    return model


def load_classifier(
    spec: str | Checkpoint,
    *,
    label_names: tuple[str, ...] | None = None,
    fresh_head: bool = False,
    dtype: Dtype = "float32",
    four_bit: bool = False,
) -> tuple[PreTrainedModel | PeftModel, Tokenizer]:
    """Open a checkpoint as a text classifier.

    Args:
        spec: An argument of `resolve`.
        label_names: Names of the labels. Needed for a fresh head; otherwise used if the checkpoint
            has only placeholder names.
        fresh_head: Whether a checkpoint without a classification head gets a new one (drawn from
            torch's global generator) instead of being refused.
        dtype: Precision of the weights.
        four_bit: Whether the linear layers of the transformer are rounded to NF4.

    Returns:
        The model in evaluation mode, and its tokenizer with a padding token. Decoders pad on the
        left, so that the last position, which their classifier reads, is always a real token.

    Raises:
        ModelError: The checkpoint is missing or incomplete, has no head or another number of
            labels, or has weights that are NaN or infinite; or an adapter does not fit its base.
        UnsafeCheckpointError: The checkpoint is a pickle, or needs remote code.
    """
    checkpoint = resolve(spec)
    whole = checkpoint.whole
    config, trained = whole.config, whole.has_head
    # An adapter includes its head, which was trained with the pooling in the config of the base.
    is_adapter = checkpoint.base is not None
    names = _settle_labels(whole, label_names, fresh_head or is_adapter)
    if trained or is_adapter:
        require_first_token(config, whole.spec)
    else:
        read_first_token(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    model, fresh = _open_weights(
        AutoModelForSequenceClassification,
        whole,
        config,
        dtype,
        fresh_head=not trained,
        four_bit=four_bit,
    )
    # `evaluation` reads this: an assumed order of labels rules out a clean verdict.
    model.labels_by_position = (
        by_position(label_names or names, whole.own_labels) if trained else is_adapter
    )
    tokenizer = load_tokenizer(whole.folder, whole.spec, model)
    with reading(ModelError, f"{whole.spec} answers no text", FETCH_AGAIN):
        require_one_position(model, tokenizer, whole.spec)
    if is_adapter:
        return _adapted(model, checkpoint, "SEQ_CLS", [] if fresh_head else fresh), tokenizer
    return model.eval(), tokenizer


def load_causal_lm(
    spec: str | Checkpoint, *, dtype: Dtype = "float32", four_bit: bool = False
) -> tuple[PreTrainedModel | PeftModel, Tokenizer]:
    """Open a checkpoint as a causal language model; see `load_classifier`.

    Its generation settings are dropped: it decodes greedily up to its tokenizer's end token.
    """
    checkpoint = resolve(spec)
    whole = require_causal_lm(checkpoint.whole)
    model, _ = _open_weights(
        AutoModelForCausalLM, whole, whole.config, dtype, fresh_head=False, four_bit=four_bit
    )
    tokenizer = load_tokenizer(whole.folder, whole.spec, model)
    # Its own settings (sampling, preferred or forbidden words) are not measured, so drop them.
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    if checkpoint.base is not None:
        return _adapted(model, checkpoint, "CAUSAL_LM", []), tokenizer
    with reading(ModelError, f"{whole.spec} answers no text"), only_numbers(model.eval()):
        answers_to_ids(model)
    return model, tokenizer


def require_causal_lm(spec: str | Checkpoint) -> Checkpoint:
    """Resolve a checkpoint that must be a causal language model; otherwise a `ModelError`.

    The name of the saved class decides, because an encoder or a classifier with tied weights would
    open as a language model without an error.
    """
    fix = "a causal language model; a teacher (--teacher-model) comes from the student's family"
    checkpoint = resolve_whole(spec, f"Name {fix}.")
    kinds = checkpoint.architectures or ("bare",)
    if not any(kind.endswith(CAUSAL) for kind in kinds):
        raise ModelError(
            f"{checkpoint.spec} cannot generate text; it is {', '.join(kinds)}.", f"Name {fix}."
        )
    return checkpoint


def load_backbone(spec: str | Checkpoint) -> tuple[PreTrainedModel, Tokenizer]:
    """Open a whole model without a head in float32, as the backbone of a teacher."""
    checkpoint = resolve_whole(spec, "Name a whole model as the teacher.")
    model, _ = _open_weights(AutoModel, checkpoint, checkpoint.config, "float32", fresh_head=True)
    return model.eval(), load_tokenizer(checkpoint.folder, checkpoint.spec, model)


def load_embeddings(spec: str | Checkpoint) -> torch.Tensor:
    """Read only the token embeddings of a whole model: (V, d) in float32."""
    checkpoint = resolve_whole(spec, "Name the whole model that it stands on.")
    with opening(checkpoint.spec, checkpoint.values):
        with torch.device("meta"):
            skeleton = AutoModel.from_config(checkpoint.config, trust_remote_code=False)
        table = skeleton.get_input_embeddings()
        layer = next(name for name, module in skeleton.named_modules() if module is table)
    wanted = f"{layer}.weight"
    found = load_weights(checkpoint, [wanted])
    if wanted not in found:
        raise ModelError(
            f"{checkpoint.spec} has no {wanted} in a safetensors file.", "Fetch it again."
        )
    return found[wanted]


def load_weights(spec: str | Checkpoint, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Read the named weights of a whole model that exist, in float32.

    Names are those inside the bare transformer; in a file they may have a prefix.
    """
    checkpoint = resolve_whole(spec, "Name the whole model that it stands on.")
    found = {}
    for file in sorted(checkpoint.folder.glob("*.safetensors")):
        with reading(ModelError, f"{file} cannot be read"), safe_open(file, "pt") as weights:
            for stored in weights.keys():  # noqa: SIM118 (it is no dict)
                name = next((n for n in names if f".{stored}".endswith(f".{n}")), None)
                if name is not None:
                    found[name] = weights.get_tensor(stored).float()
    return found


def load_translator(spec: str | Checkpoint) -> tuple[PreTrainedModel, Tokenizer]:
    """Open a whole sequence-to-sequence model."""
    checkpoint = resolve_whole(spec, "Name a whole model that translates.")
    if not any(kind.endswith(SEQ2SEQ) for kind in checkpoint.architectures):
        raise ModelError(
            f"{checkpoint.spec} is not a sequence-to-sequence model.", "Name a translation model."
        )
    config = checkpoint.config
    model, _ = _open_weights(AutoModelForSeq2SeqLM, checkpoint, config, "float32", fresh_head=False)
    return to_gpu(model).eval(), load_tokenizer(checkpoint.folder, checkpoint.spec, model)


def _open_weights(
    kind: Any,
    checkpoint: Checkpoint,
    config: PretrainedConfig,
    dtype: Dtype,
    *,
    fresh_head: bool,
    four_bit: bool = False,
) -> tuple[PreTrainedModel, list[str]]:
    """Open a model; returns it and the names of head weights that came from no file.

    Raises:
        ModelError: Other weights are missing, files hold weights that do not fit, or weights are
            NaN or infinite.
    """
    if four_bit:
        require_bitsandbytes()
    # Missing weights are checked below, so the warnings of transformers are silenced.
    with opening(checkpoint.spec, checkpoint.values), quiet_transformers():
        with torch.device("meta"):
            skeleton = kind.from_config(config, trust_remote_code=False)
        require_room_for(sum(p.numel() for p in skeleton.parameters()), checkpoint)
        rounding = {}
        if four_bit:
            rounding["quantization_config"] = nf4(skeleton, getattr(torch, dtype))
        model, found = kind.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **rounding,
        )
    missing = sorted(found["missing_keys"])
    fresh = []
    if fresh_head:
        # BERT's pooler counts as a part of the head, because language models lack it.
        backbone = f"{model.base_model_prefix}." if kind is not AutoModel else ""
        fresh = [n for n in missing if not n.startswith(backbone) or "pooler" in n]
        missing = [n for n in missing if n not in fresh]
    if missing:
        raise ModelError(
            f"{checkpoint.spec} is incomplete: {len(missing)} weights are missing, such as "
            f"{missing[0]}.",
            "Fetch it again.",
        )
    places = {name for name, _ in model.named_children()}
    lost = [
        name
        for name in sorted(found["unexpected_keys"])
        if name.split(".")[0] in places and not _BUFFER.search(name)
    ]
    if lost:
        raise ModelError(
            f"{checkpoint.spec} holds {len(lost)} weights that do not fit its config.json, such "
            f"as {lost[0]}.",
            "Fetch it again; config.json must belong to the weights.",
        )
    require_finite(model, checkpoint.spec)
    keep_exact(model)
    return cast(PreTrainedModel, model), fresh


def _adapted(
    model: PreTrainedModel, checkpoint: Checkpoint, task: str, fresh: list[str]
) -> PeftModel:
    """Open an adapter on its base; it must fit the task and contain the `fresh` weights."""
    base = checkpoint.whole.spec
    trained_for = checkpoint.values.get("task_type")
    if trained_for not in (None, task):
        raise ModelError(
            f"The adapter {checkpoint.spec} does not fit this task: it was trained for "
            f"{trained_for}, and {task} is needed.",
            "Name another adapter, or set --task to the task of this one.",
        )
    require_head(checkpoint, fresh)
    names = [name for name, _ in model.named_modules()]
    require_short_matching(checkpoint.values, names, checkpoint.spec)
    fix = "Name the base it was trained on, or fetch the adapter again."
    with (
        reading(ModelError, f"The adapter {checkpoint.spec} does not fit {base}", fix),
        quiet_transformers(),
    ):
        require_room_for_adapter(checkpoint)
        adapted = cast(PeftModel, PeftModel.from_pretrained(model, checkpoint.folder).eval())
    require_adapter(adapted, checkpoint)
    require_finite(adapted, checkpoint.spec)
    if pads_left(model):
        count_positions(adapted)
    with reading(ModelError, f"{checkpoint.spec} on {base} answers no text", fix):
        with only_numbers(adapted):
            answers_to_ids(adapted)
    return adapted


def _settle_labels(
    checkpoint: Checkpoint, wanted: tuple[str, ...] | None, fresh_head: bool
) -> tuple[str, ...]:
    """The label names of a classifier; raises a `ModelError` if the checkpoint cannot have them."""
    spec = checkpoint.spec
    if not checkpoint.has_head:
        if not fresh_head:
            kinds = ", ".join(checkpoint.architectures or ("bare",))
            raise ModelError(
                f"{spec} has no classification head; it is {kinds}.",
                "Name a model that was trained to classify (AutoModelForSequenceClassification); "
                "w2s poison makes one of a language model, to test with.",
            )
        if wanted is None:
            raise ModelError(f"{spec} has no label names.", "Name a dataset that has them.")
        return wanted
    own = checkpoint.own_labels
    problem = checkpoint.config.problem_type
    if problem not in (None, "single_label_classification"):
        raise ModelError(
            f"{spec} is not a single-label classifier (problem_type: {problem}).",
            "Name a model that was trained for single-label classification.",
        )
    if wanted is not None and len(wanted) != len(own):
        raise ModelError(
            f"{spec} has {len(own)} labels ({', '.join(own)}), the data has {len(wanted)} "
            f"({', '.join(wanted)}).",
            "Use data with the model's labels.",
        )
    return wanted if are_placeholders(own) and wanted is not None else own
