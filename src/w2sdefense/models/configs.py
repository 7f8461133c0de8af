"""What the config of a checkpoint says; no weights are opened."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from w2sdefense.data.checks import are_placeholders
from w2sdefense.errors import ModelError, UnsafeCheckpointError
from w2sdefense.models.adapter_folders import named_base
from w2sdefense.models.locate import resolve_model
from w2sdefense.models.safety import ADAPTER_CONFIG


def feature_width(spec: str, base: str | None = None) -> int:
    """Width of the feature that a model's classifier reads, from its config alone.

    Args:
        spec: What `resolve_model` takes, or the folder of an adapter.
        base: Base model of an adapter.

    Raises:
        ModelError: The checkpoint is missing, or an adapter comes without its base.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    folder = resolve_model(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        return feature_width(named_base(folder, spec, base))
    return int(load_config(folder, spec).get_text_config().hidden_size)


def label_names_of(spec: str) -> tuple[str, ...] | None:
    """Names of the labels that a classifier brings, by index.

    Args:
        spec: What `resolve_model` takes.

    Returns:
        The names; None where they are those of the data: of a model without a head, of one whose
        labels nobody named, and of an adapter.

    Raises:
        ModelError: The checkpoint is missing.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    folder = resolve_model(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        return None
    config = load_config(folder, spec)
    names = tuple(config.id2label[index] for index in range(config.num_labels))
    return None if not has_head(config) or are_placeholders(names) else names


def unreadable(folder: Path, spec: str, error: Exception) -> ModelError:
    """The error for a folder that transformers cannot open; remote code has one of its own."""
    config = folder / "config.json"
    if config.is_file() and "auto_map" in config.read_text(encoding="utf-8", errors="replace"):
        return UnsafeCheckpointError(
            f"{spec} needs code of its own, which is never run.",
            "Use a model of an architecture that transformers ships.",
        )
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"{spec} cannot be opened as a text model: {reason.rstrip('.')}.",
        "Name a complete folder of an architecture that transformers ships.",
    )


def load_config(folder: Path, spec: str) -> PretrainedConfig:
    """The config of a folder that was checked.

    Raises:
        ModelError: It cannot be read.
        UnsafeCheckpointError: It needs remote code.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise unreadable(folder, spec, error) from None
    return config


def has_head(config: PretrainedConfig) -> bool:
    """Whether a checkpoint is a classifier of texts."""
    return any(n.endswith("ForSequenceClassification") for n in config.architectures or [])
