"""The only place that opens a checkpoint.

Opened are the folders that `locate.py` finds: encoders and decoders, as classifiers with a head
(`load_classifier`), as bare encoders of text (`load_backbone`) or, if they can write, as they are
(`load_causal_lm`, `load_rewriter`); of a folder also the token embeddings alone
(`load_embeddings`). A PEFT adapter folder (`adapter_folders.py`) is loaded on the base that the
caller names. Pickles and remote code are refused. Nothing here trains or predicts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from w2sdefense.config import Dtype
from w2sdefense.data.checks import are_placeholders
from w2sdefense.errors import ModelError
from w2sdefense.models.adapter_folders import adapted, named_base
from w2sdefense.models.configs import has_head, load_config, unreadable
from w2sdefense.models.device import to_gpu
from w2sdefense.models.four_bit import keep_exact, nf4, require_bitsandbytes
from w2sdefense.models.locate import resolve_model, resolve_whole_model
from w2sdefense.models.pooling import read_first_token, require_first_token
from w2sdefense.models.quiet import quiet_transformers
from w2sdefense.models.safety import ADAPTER_CONFIG
from w2sdefense.models.tokenizer import Tokenizer, load_tokenizer

CAUSAL = ("ForCausalLM", "LMHeadModel")
SEQ2SEQ = ("ForConditionalGeneration",)
"""How the architectures end that write text."""


def load_classifier(
    spec: str,
    *,
    label_names: tuple[str, ...] | None = None,
    fresh_head: bool = False,
    base: str | None = None,
    dtype: Dtype = "float32",
    four_bit: bool = False,
) -> tuple[PreTrainedModel | PeftModel, Tokenizer]:
    """Open a checkpoint as a text classifier.

    Args:
        spec: What `resolve_model` takes, or the folder of a PEFT adapter.
        label_names: Names of the labels. Needed for a fresh head; otherwise used where the
            checkpoint has only placeholder names.
        fresh_head: Whether a checkpoint without a classification head gets a new one (drawn from
            torch's global generator) instead of being refused.
        base: Base model of an adapter folder.
        dtype: Precision of the weights.
        four_bit: Whether the linear layers of the transformer are rounded to NF4.

    Returns:
        The model in evaluation mode, and its tokenizer with a padding token. Decoders pad on the
        left, so that the last position, which their classifier reads, is always a real token.

    Raises:
        ModelError: The checkpoint is missing or incomplete, has no head, or has another number of
            labels; or an adapter comes without its base, or a base without an adapter.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
        MissingDependencyError: Four bits are wanted without bitsandbytes.
    """
    folder = resolve_model(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        base = named_base(folder, spec, base)
        whole = resolve_whole_model(base, "Name the whole model that it stands on.")
        # An adapter brings its head, which learned to read what the config of the base says.
        require_first_token(load_config(whole, base), base)
        model, tokenizer = load_classifier(
            base, label_names=label_names, fresh_head=True, dtype=dtype, four_bit=four_bit
        )
        return adapted(model, folder, spec, base), tokenizer
    if base is not None:
        raise ModelError(f"{spec} is not an adapter, so it has no base.", "Leave --base out.")
    config = load_config(folder, spec)
    names = _settle_labels(config, label_names, fresh_head, spec)
    if has_head(config):
        require_first_token(config, spec)
    else:
        read_first_token(config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    model = _open_weights(
        AutoModelForSequenceClassification,
        folder,
        config,
        spec,
        dtype,
        fresh_head=not has_head(config),
        four_bit=four_bit,
    )
    tokenizer = load_tokenizer(folder, spec, model)
    return model.eval(), tokenizer


def load_causal_lm(
    spec: str, *, base: str | None = None, dtype: Dtype = "float32", four_bit: bool = False
) -> tuple[PreTrainedModel | PeftModel, Tokenizer]:
    """Open a checkpoint as a language model that writes text.

    Args:
        spec: What `resolve_model` takes, or the folder of a PEFT adapter.
        base: Base model of an adapter folder.
        dtype: Precision of the weights.
        four_bit: Whether the linear layers of the transformer are rounded to NF4.

    Returns:
        The model in evaluation mode, and its tokenizer, which pads on the left.

    Raises:
        ModelError: The checkpoint is missing, incomplete, or no causal language model; or an
            adapter comes without its base, or a base without an adapter.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
        MissingDependencyError: Four bits are wanted without bitsandbytes.
    """
    folder = resolve_model(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        base = named_base(folder, spec, base)
        model, tokenizer = load_causal_lm(base, dtype=dtype, four_bit=four_bit)
        return adapted(model, folder, spec, base), tokenizer
    if base is not None:
        raise ModelError(f"{spec} is not an adapter, so it has no base.", "Leave --base out.")
    config = require_causal_lm(spec)
    model = _open_weights(
        AutoModelForCausalLM, folder, config, spec, dtype, fresh_head=False, four_bit=four_bit
    )
    return model.eval(), load_tokenizer(folder, spec, model)


def require_causal_lm(spec: str) -> PretrainedConfig:
    """Look at the config of a checkpoint, and insist on a causal language model.

    Args:
        spec: What `resolve_model` takes.

    Raises:
        ModelError: It is missing or something else.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    config = load_config(resolve_model(spec), spec)
    _require_architecture(
        config,
        spec,
        CAUSAL,
        "a causal language model; a teacher (--teacher-model) comes from the student's family",
    )
    return config


def _require_architecture(
    config: PretrainedConfig, spec: str, endings: tuple[str, ...], wanted: str
) -> None:
    """Insist on the name: an encoder or a classifier with tied weights opens without complaint."""
    kinds = config.architectures or ["bare"]
    if not any(kind.endswith(endings) for kind in kinds):
        raise ModelError(
            f"{spec} does not write text; it is {', '.join(kinds)}.", f"Name {wanted}."
        )


def load_backbone(spec: str) -> tuple[PreTrainedModel, Tokenizer]:
    """Open a checkpoint as a bare transformer in float32, without any head: the teacher's encoder.

    Raises:
        ModelError: The checkpoint is missing, incomplete, an adapter, or of an unknown
            architecture.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    folder = resolve_whole_model(spec, "Name a whole model as the teacher.")
    config = load_config(folder, spec)
    model = _open_weights(AutoModel, folder, config, spec, "float32", fresh_head=True)
    return model.eval(), load_tokenizer(folder, spec, model)


def load_embeddings(spec: str) -> torch.Tensor:
    """Read the token embeddings of a checkpoint and nothing else of it: (V, d) in float32.

    Raises:
        ModelError: The checkpoint is missing, an adapter, or no safetensors folder.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    folder = resolve_whole_model(spec, "Name the whole model that it stands on.")
    with torch.device("meta"):
        skeleton = AutoModel.from_config(load_config(folder, spec))
    table = skeleton.get_input_embeddings()
    wanted = next(name for name, module in skeleton.named_modules() if module is table) + ".weight"
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no dict)
                if name == wanted or name.endswith(f".{wanted}"):
                    return cast(torch.Tensor, weights.get_tensor(name).float())
    raise ModelError(f"{spec} has no {wanted} in a safetensors file.", "Fetch it again.")


def load_rewriter(spec: str, *, causal: bool = True) -> tuple[PreTrainedModel, Tokenizer]:
    """Open a checkpoint that translates or paraphrases, in float32.

    Args:
        spec: What `resolve_model` takes.
        causal: Whether a causal language model will do; otherwise only sequence to sequence.

    Raises:
        ModelError: The checkpoint is missing, incomplete, an adapter, or does not write text.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    folder = resolve_whole_model(spec, "Name a whole model that rewrites text.")
    config = load_config(folder, spec)
    if config.is_encoder_decoder:
        _require_architecture(config, spec, SEQ2SEQ, "a sequence-to-sequence model")
    elif causal:
        _require_architecture(
            config, spec, CAUSAL, "a sequence-to-sequence or a causal language model"
        )
    else:
        raise ModelError(
            f"{spec} is no sequence-to-sequence model.", "Name a translator or a paraphraser."
        )
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = _open_weights(kind, folder, config, spec, "float32", fresh_head=False)
    return to_gpu(model).eval(), load_tokenizer(folder, spec, model)


def _open_weights(
    kind: Any,
    folder: Path,
    config: PretrainedConfig,
    spec: str,
    dtype: Dtype,
    *,
    fresh_head: bool,
    four_bit: bool = False,
) -> PreTrainedModel:
    """Open the weights of a folder that was checked; what is missing must not be made up."""
    rounding = {}
    if four_bit:
        require_bitsandbytes()
        with torch.device("meta"):
            skeleton = kind.from_config(config)
        rounding["quantization_config"] = nf4(skeleton, getattr(torch, dtype))
    try:
        # "Newly initialized" is looked at below; transformers' table of it would only alarm.
        with quiet_transformers():
            model, found = kind.from_pretrained(
                folder,
                config=config,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **rounding,
            )
    except (ValueError, OSError, RuntimeError, ImportError, SafetensorError) as error:
        raise unreadable(folder, spec, error) from None
    backbone = f"{model.base_model_prefix}." if kind is not AutoModel else ""
    missing = sorted(found["missing_keys"])
    if fresh_head:
        # BERT's pooler counts as head: a language model has none.
        missing = [n for n in missing if n.startswith(backbone) and "pooler" not in n]
    if missing:
        raise ModelError(
            f"{spec} is incomplete: {len(missing)} weights are missing, such as {missing[0]}.",
            "Fetch it again.",
        )
    keep_exact(model)
    return cast(PreTrainedModel, model)


def _settle_labels(
    config: PretrainedConfig, wanted: tuple[str, ...] | None, fresh_head: bool, spec: str
) -> tuple[str, ...]:
    """Names of the labels of a classifier; refuses a checkpoint that cannot have them."""
    if not has_head(config):
        if not fresh_head:
            kinds = ", ".join(config.architectures or ["bare"])
            raise ModelError(
                f"{spec} has no classification head; it is {kinds}.",
                "Name a model that was trained to classify (AutoModelForSequenceClassification); "
                "w2s poison makes one of a language model, to test with.",
            )
        if wanted is None:
            raise ModelError(
                f"{spec} has no labels of its own.", "Name a dataset to take them from."
            )
        return wanted
    own = tuple(config.id2label[index] for index in range(config.num_labels))
    if wanted is not None and len(wanted) != len(own):
        raise ModelError(
            f"{spec} has {len(own)} labels ({', '.join(own)}), the data has {len(wanted)} "
            f"({', '.join(wanted)}).",
            "Use data with the model's labels.",
        )
    return wanted if are_placeholders(own) and wanted is not None else own
