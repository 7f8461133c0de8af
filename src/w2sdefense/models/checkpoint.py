"""Finds and checks a checkpoint that a user names, without opening its weights.

A suspect model is an untrusted file, and opening a pickle runs whatever code its author put there.
So only safetensors and GGUF are opened, remote code never runs, and the base that an adapter names
is not downloaded unless the user names it. `load.py` opens the weights. These checks are about code
and broken files, not about backdoors.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import AutoConfig, PretrainedConfig

from w2sdefense.data.checks import are_placeholders
from w2sdefense.data.files import PICKLES
from w2sdefense.data.hub import commit_of, split_hub_id
from w2sdefense.errors import ModelError, UnsafeCheckpointError, printable, reading
from w2sdefense.io import read_json
from w2sdefense.models.embedded import EMBEDDED, convert_gguf, embedded_folder

SAFE_DOWNLOADS = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md")
"""Files to download from a hub: weights that cannot run code, and text; never Python."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_LEADS_ELSEWHERE = frozenset({"XLORA", "MULTITASK_PROMPT_TUNING"})
"""Adapter types whose config names other files to open, possibly pickles."""

CODE = ("auto_map", "custom_pipelines")
"""Config keys that name code. The code is not run, and the keys are removed from saved models."""

_NOT_FOLDABLE = frozenset({"P_TUNING", "PROMPT_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT"})
_OPENED = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
_LFS = b"version https://git-lfs"
_DO_NOT_USE = "Do not use this checkpoint."
_COMPLETE = "Name a complete folder of an architecture that transformers ships."


@dataclass(frozen=True)
class Checkpoint:
    """A model or an adapter whose files are safe to open."""

    spec: str  # the name that the user gave
    folder: Path  # local folder with config, tokenizer and safetensors weights
    values: dict[str, Any]  # content of `config.json`, or of `adapter_config.json`
    _config: PretrainedConfig = field(repr=False)
    base: Checkpoint | None = None  # the base of an adapter; None for a whole model

    @property
    def whole(self) -> Checkpoint:
        """The whole model: this checkpoint, or the base of an adapter."""
        return self.base or self

    @property
    def parts(self) -> tuple[Checkpoint, ...]:
        """This checkpoint and, for an adapter, its base."""
        return (self,) if self.base is None else (self, self.base)

    @property
    def commit(self) -> str | None:
        """The hub commit that was downloaded; None if the folder is not in the hub's cache."""
        return commit_of(self.folder)

    @property
    def config(self) -> PretrainedConfig:
        """Config of the whole model; a copy, which may be changed."""
        return copy.deepcopy(self._config)

    @property
    def width(self) -> int:
        """Width of the feature that the model's classifier reads."""
        with reading(ModelError, f"{self.whole.spec} cannot be read"):
            return feature_width(self._config)

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of the classes that the whole model was saved as; may be empty for bare models."""
        with reading(ModelError, f"{self.whole.spec} cannot be read"):
            return tuple(map(str, self._config.architectures or ()))

    @property
    def has_head(self) -> bool:
        """Whether the whole model is a text classifier."""
        return any(name.endswith("ForSequenceClassification") for name in self.architectures)

    @property
    def own_labels(self) -> tuple[str, ...]:
        """Names of the labels in the config, by index.

        Raises:
            ModelError: The indices do not count from 0, or two labels have the same name.
        """
        names = self._config.id2label or {}
        if sorted(names) != list(range(len(names))):
            raise ModelError(
                f"{self.whole.folder / 'config.json'} numbers its labels "
                f"{', '.join(map(str, names))}, not from 0 (id2label).",
                "Number them from 0, in the order of the head's outputs.",
            )
        found = tuple(printable(str(names[index])) for index in range(len(names)))
        if len(set(found)) < len(found):
            raise ModelError(
                f"{self.whole.folder / 'config.json'} gives two labels the same name (id2label): "
                f"{', '.join(found)[:200]}.",
                "Name each of them, in the order of the head's outputs.",
            )
        return found

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of a classifier's own labels, by index.

        None if the labels of the data are used instead: for a model without a head, an adapter, or
        placeholder names.
        """
        if self.base is not None or not self.has_head or are_placeholders(self.own_labels):
            return None
        return self.own_labels

    def require_foldable(self) -> None:
        """Raise a `ModelError` if this is an adapter of a type that cannot be merged."""
        if self.base is not None and str(self.values.get("peft_type")) in _NOT_FOLDABLE:
            raise ModelError(
                f"{self.spec} is an adapter of virtual tokens or additional layers "
                f"({self.values['peft_type']}), which cannot be merged into the model as this "
                "command requires.",
                "Name a whole model, or an adapter of another kind (lora, dora, vera, fourierft).",
            )


def feature_width(config: PretrainedConfig) -> int:
    """Width of the final hidden states, after the extra projection of small OPT models."""
    text: Any = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def resolve(spec: str | Checkpoint, base: str | None = None) -> Checkpoint:
    """Find and check a checkpoint; a `Checkpoint` is returned unchanged.

    `spec` and `base` are embedded names, folders, GGUF files, or hub ids (`owner/name`,
    `owner/name@revision`, `hf://owner/name@revision`).

    Raises:
        ModelError: The checkpoint is missing or unreadable, or an adapter comes without its base,
            or a base is named for a whole model.
        UnsafeCheckpointError: The checkpoint is a pickle, or needs remote code.
    """
    if isinstance(spec, Checkpoint):
        return spec
    folder = _find(spec)
    if not (folder / ADAPTER_CONFIG).is_file():
        if base is not None:
            raise ModelError(f"{spec} is not an adapter, so it has no base.", "Omit --base.")
        return _whole(spec, folder)
    values = read_json(folder / ADAPTER_CONFIG, ModelError)
    if base is None:
        raise ModelError(
            f"{spec} is an adapter for {values.get('base_model_name_or_path')!r}, "
            "which is not opened automatically.",
            "Name the base model with --base.",
        )
    whole = resolve_whole(base, "Name the whole model under it.")
    return Checkpoint(spec, folder, values, whole._config, whole)


def resolve_whole(spec: str | Checkpoint, fix: str) -> Checkpoint:
    """Resolve the name of a model that must not be an adapter; `fix` says what to name instead.

    Raises:
        ModelError: The model is missing or unreadable, or is an adapter.
        UnsafeCheckpointError: The model is a pickle, or needs remote code.
    """
    folder = spec.folder if isinstance(spec, Checkpoint) else _find(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec} is an adapter.", fix)
    return spec if isinstance(spec, Checkpoint) else _whole(spec, folder)


def _whole(spec: str, folder: Path) -> Checkpoint:
    """Check the config of a whole model, which must name no pickle and no code."""
    path = folder / "config.json"
    values = read_json(path, ModelError)
    # transformers would open a pickle that is named under this key.
    named = values.get("transformers_weights")
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise UnsafeCheckpointError(
            f"{path} refers to {named!r}, which is not a safetensors file.", _DO_NOT_USE
        )
    with opening(spec, values):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        for name in CODE:
            vars(config).pop(name, None)
        tensors = 0
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                tensors += len(weights.keys())
    for name, value in values.items():
        # Building so many layers would exhaust time and memory.
        if re.search("layer|expert", name) and isinstance(value, int) and value > max(tensors, 256):
            raise ModelError(
                f"{path} sets {name} to {value}, but the files hold {tensors} weights.",
                "Fetch it again, or name another one.",
            )
    return Checkpoint(spec, folder, values, config)


@contextmanager
def opening(spec: str, values: dict[str, Any]) -> Iterator[None]:
    """Turn every error of `transformers` in the block into a `ModelError`.

    If the config names code, the error is an `UnsafeCheckpointError`.
    """
    try:
        with reading(ModelError, f"{spec} cannot be opened as a text model", _COMPLETE):
            yield
    except ModelError as error:
        if "auto_map" not in values:
            raise
        raise UnsafeCheckpointError(
            f"{spec} needs remote code, which is never run.",
            "Use a model of an architecture that transformers ships.",
        ) from error


def _find(spec: str) -> Path:
    """The checked folder of a checkpoint, after conversion or download if necessary."""
    if spec in EMBEDDED:
        return embedded_folder(spec)
    path = Path(os.path.expanduser(spec))
    if path.suffix in PICKLES:
        _refuse_pickle(path)
    if path.suffix == ".gguf" and path.is_file():
        _refuse_pointer(path)
        return convert_gguf(path.resolve(), path.stem)
    folder = path if path.is_dir() else _download(spec)
    _check_folder(folder)
    return folder


def _download(spec: str) -> Path:
    from huggingface_hub.errors import HFValidationError

    known = ", ".join(EMBEDDED)
    missing = ModelError(
        f"There is no model {spec!r} here.",
        f"Name a folder, a GGUF file, a hub id (with @revision, if you like), or: {known}.",
    )
    on_hub = split_hub_id(spec)
    if on_hub is None:
        raise missing
    try:
        return _snapshot(*on_hub)
    except HFValidationError:
        raise missing from None
    except Exception as error:
        raise ModelError(
            f"{spec!r} is neither a folder nor reachable as a hub id ({type(error).__name__}).",
            f"Check the name and the connection, or use an embedded model: {known}.",
        ) from error


@functools.cache  # so that a run sees one commit, even if the branch moves meanwhile
def _snapshot(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(SAFE_DOWNLOADS)))


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose weights are missing, broken, or could run code when opened.

    A pickle next to safetensors weights is harmless, because it is never opened. An adapter must
    have its own weights as safetensors, because its loader would fall back to a pickle.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix in _OPENED and path.is_file():
            _refuse_pointer(path)
    for index in folder.rglob("*.safetensors.index.json"):
        _check_index(index)
    adapter = folder / ADAPTER_CONFIG
    if adapter.is_file():
        kind = str(read_json(adapter, ModelError).get("peft_type"))
        if kind in _LEADS_ELSEWHERE:
            raise UnsafeCheckpointError(
                f"{adapter} has the type {kind}, which opens files outside its folder.",
                "Use an adapter of another kind (lora, dora, vera, fourierft).",
            )
    weights = sorted(folder.glob(ADAPTER_WEIGHTS if adapter.is_file() else "*.safetensors"))
    pickles = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
    if not weights and pickles:
        _refuse_pickle(pickles[0])
    if not weights:
        raise ModelError(
            f"{folder} holds no weights (*.safetensors).",
            "Name a folder written by save_pretrained, a .gguf file, or a hub id.",
        )
    for path in weights:
        # This reads only the header, which must agree with the length of the file.
        with reading(ModelError, f"{path} cannot be read"), safe_open(path, "pt"):
            pass


def _refuse_pickle(path: Path) -> None:
    raise UnsafeCheckpointError(
        f"{path} is a pickle: opening it could run code that its author chose.",
        "Ask its publisher for safetensors or GGUF, or convert it on a machine without secrets: "
        "torch.load(path, weights_only=True), then safetensors.torch.save_file.",
    )


def _refuse_pointer(path: Path) -> None:
    with reading(ModelError, f"{path} cannot be read"), path.open("rb") as file:
        pointer = file.read(len(_LFS)) == _LFS
    if pointer:
        raise ModelError(
            f"{path} is a Git LFS pointer, not the file itself.",
            "Run git lfs pull in its repository.",
        )


def _check_index(index: Path) -> None:
    with reading(ModelError, f"{index} is not an index of shards"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    # The loader opens whatever the index names, including pickles and paths outside the folder.
    strange = [s for s in shards if Path(str(s)).name != s or not s.endswith(".safetensors")]
    if strange:
        raise UnsafeCheckpointError(
            f"{index} refers to {strange[0]!r}, which is not a safetensors file beside it.",
            _DO_NOT_USE,
        )
