"""A checkpoint that a user names: found, checked and understood once, then handed on.

A suspect model is an untrusted file, and opening a pickle runs whatever code its author put there.
So only safetensors and GGUF are opened, remote code never runs, and the base that an adapter names
itself is not fetched unasked. Weights are opened in `load.py`; nothing is said here about
backdoors in them.
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
"""What is fetched from a hub: weights that cannot run code, and text; never Python."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_LEADS_ELSEWHERE = frozenset({"XLORA", "MULTITASK_PROMPT_TUNING"})
"""Adapters whose config names other files to open, pickles among them."""

CODE = ("auto_map", "custom_pipelines")
"""What in a config names code to run: it is not run here, and not handed on with the model."""

_NOT_FOLDABLE = frozenset({"P_TUNING", "PROMPT_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT"})
_OPENED = frozenset({".safetensors", ".json", ".txt", ".model", ".jinja"})
_LFS = b"version https://git-lfs"
_DO_NOT_USE = "Do not use this checkpoint."
_COMPLETE = "Name a complete folder of an architecture that transformers ships."


@dataclass(frozen=True)
class Checkpoint:
    """A model or an adapter whose files are safe to open."""

    spec: str  # what the user called it
    folder: Path  # where it is, with config, tokenizer and safetensors weights
    values: dict[str, Any]  # what is in its `config.json`, or in `adapter_config.json`
    _config: PretrainedConfig = field(repr=False)
    base: Checkpoint | None = None  # the model that an adapter stands on; None for a whole model

    @property
    def whole(self) -> Checkpoint:
        """The whole model: itself, or the base of an adapter."""
        return self.base or self

    @property
    def parts(self) -> tuple[Checkpoint, ...]:
        """Itself, and the base that it stands on, if any."""
        return (self,) if self.base is None else (self, self.base)

    @property
    def commit(self) -> str | None:
        """The commit of the hub that it was fetched at; None if it is not from the hub's cache."""
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
        """Names of the classes that the whole model was saved as; none of some bare models."""
        with reading(ModelError, f"{self.whole.spec} cannot be read"):
            return tuple(map(str, self._config.architectures or ()))

    @property
    def has_head(self) -> bool:
        """Whether the whole model is a classifier of texts."""
        return any(name.endswith("ForSequenceClassification") for name in self.architectures)

    @property
    def own_labels(self) -> tuple[str, ...]:
        """Names of the labels in the config, by index; `ModelError` unless from 0 on."""
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
                f"{self.whole.folder / 'config.json'} calls two labels alike (id2label): "
                f"{', '.join(found)[:200]}.",
                "Name each of them, in the order of the head's outputs.",
            )
        return found

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the labels that a classifier brings, by index.

        None where they are those of the data: no head, an adapter, or labels that nobody named.
        """
        if self.base is not None or not self.has_head or are_placeholders(self.own_labels):
            return None
        return self.own_labels

    def require_foldable(self) -> None:
        """Insist that an adapter is of a kind that can be folded into a model."""
        if self.base is not None and str(self.values.get("peft_type")) in _NOT_FOLDABLE:
            raise ModelError(
                f"{self.spec} is an adapter of virtual tokens or of layers of its own "
                f"({self.values['peft_type']}), which cannot be folded into a model, and that "
                "comes before this work.",
                "Name a whole model, or an adapter of another kind (lora, dora, vera, fourierft).",
            )


def feature_width(config: PretrainedConfig) -> int:
    """Width of the final hidden states of a model; small OPT models project them once more."""
    text: Any = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def resolve(spec: str | Checkpoint, base: str | None = None) -> Checkpoint:
    """Find and check what a user names; what was resolved before is handed back.

    It is an embedded name, a folder, a GGUF file, or a hub id (`owner/name`, `owner/name@revision`,
    `hf://owner/name@revision`); so is the base of an adapter.

    Raises:
        ModelError: Nothing is found, it cannot be read, or an adapter comes without its base or the
            reverse.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    if isinstance(spec, Checkpoint):
        return spec
    folder = _find(spec)
    if not (folder / ADAPTER_CONFIG).is_file():
        if base is not None:
            raise ModelError(f"{spec} is not an adapter, so it has no base.", "Leave --base out.")
        return _whole(spec, folder)
    values = read_json(folder / ADAPTER_CONFIG, ModelError)
    if base is None:
        raise ModelError(
            f"{spec} is an adapter, trained on {values.get('base_model_name_or_path')!r}, "
            "which is not opened unasked.",
            "Name the base model with --base.",
        )
    whole = resolve_whole(base, "Name the whole model under it.")
    return Checkpoint(spec, folder, values, whole._config, whole)


def resolve_whole(spec: str | Checkpoint, fix: str) -> Checkpoint:
    """Resolve the name of a model that must not be an adapter; `fix` says what to name instead.

    Raises:
        ModelError: Nothing is found under that name, or it is an adapter.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    folder = spec.folder if isinstance(spec, Checkpoint) else _find(spec)
    if (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{spec} is an adapter.", fix)
    return spec if isinstance(spec, Checkpoint) else _whole(spec, folder)


def _whole(spec: str, folder: Path) -> Checkpoint:
    """A whole model, whose config must name no pickle and no code."""
    path = folder / "config.json"
    values = read_json(path, ModelError)
    # transformers lets one pickle through under this key.
    named = values.get("transformers_weights")
    if named is not None and not str(named).endswith((".safetensors", ".safetensors.index.json")):
        raise UnsafeCheckpointError(
            f"{path} sends the loader to {named!r}, which is not a safetensors file.", _DO_NOT_USE
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
        # Building them would take all time and memory.
        if re.search("layer|expert", name) and isinstance(value, int) and value > max(tensors, 256):
            raise ModelError(
                f"{path} speaks of {value} ({name}), and the files hold {tensors} weights.",
                "Fetch it again, or name another one.",
            )
    return Checkpoint(spec, folder, values, config)


@contextmanager
def opening(spec: str, values: dict[str, Any]) -> Iterator[None]:
    """Turn every error of `transformers` inside the block into ours; remote code has its own."""
    try:
        with reading(ModelError, f"{spec} cannot be opened as a text model", _COMPLETE):
            yield
    except ModelError as error:
        if "auto_map" not in values:
            raise
        raise UnsafeCheckpointError(
            f"{spec} needs code of its own, which is never run.",
            "Use a model of an architecture that transformers ships.",
        ) from error


def _find(spec: str) -> Path:
    """The folder of what a user names: unpacked, converted or fetched, and checked."""
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


@functools.cache  # a branch may move while a run that asks several times is at work
def _snapshot(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(SAFE_DOWNLOADS)))


def _check_folder(folder: Path) -> None:
    """Refuse a folder whose weights are missing, broken, or could run code when opened.

    A pickle that lies beside safetensors weights is never opened and does no harm. An adapter must
    have its own weights as safetensors: its loader falls back to a pickle.
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
                f"{adapter} is of the type {kind}, which opens other files than its own.",
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
        # The header alone; it must agree with the length of the file.
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
    # The loader opens whatever the index names, so a pickle or a path out of the folder could hide
    # here.
    strange = [s for s in shards if Path(str(s)).name != s or not s.endswith(".safetensors")]
    if strange:
        raise UnsafeCheckpointError(
            f"{index} sends the loader to {strange[0]!r}, not to a safetensors file beside it.",
            _DO_NOT_USE,
        )
