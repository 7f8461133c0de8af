"""Whatever is in a checkpoint, it opens or the user is told: no traceback, and nothing runs."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.checkpoints import Campaign, nothing_runs
from w2sdefense.errors import W2SError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import convert_gguf
from w2sdefense.models.tokenizer import open_tokenizer

BYTES = st.binary(max_size=64)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory) -> Campaign:
    return Campaign(tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="module")
def scratch(campaign) -> Path:
    return shutil.copytree(campaign.good["model"], campaign.folder / "scratch")


def told(work: Callable[[], object]) -> None:
    """Insist on success or an error of ours that says what to do."""
    try:
        with nothing_runs():
            work()
    except W2SError as error:
        assert error.problem and error.fix
        assert "\n" not in str(error)


def check(path: Path, content: bytes, work: Callable[[], object]) -> None:
    before = path.read_bytes() if path.is_file() else None
    path.write_bytes(content)
    try:
        told(work)
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def mapping(keys: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(keys) | st.text(max_size=6), VALUES, max_size=4)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "adapter_config.json"])
@given(content=BYTES)
def test_any_bytes(scratch, name, content):
    check(scratch / name, content, lambda: resolve(str(scratch)))


@pytest.fixture(scope="module")
def config(scratch) -> dict[str, Any]:
    return json.loads((scratch / "config.json").read_text())


@given(data=st.data())
def test_any_values_in_a_config(scratch, config, data):
    keys = [*config, "auto_map", "transformers_weights", "quantization_config", "text_config"]
    values = config | data.draw(mapping(keys))
    content = json.dumps(values).encode()

    def work() -> None:
        checkpoint = resolve(str(scratch))
        _ = (checkpoint.width, checkpoint.has_head, checkpoint.label_names)

    check(scratch / "config.json", content, work)


@given(shards=VALUES | st.dictionaries(st.text(max_size=4), VALUES, max_size=2))
def test_any_index(scratch, shards):
    content = json.dumps({"metadata": {}, "weight_map": shards}).encode()
    check(scratch / "model.safetensors.index.json", content, lambda: resolve(str(scratch)))


TENSOR = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64", "BOOL", "F99"]) | VALUES,
        "shape": st.lists(st.integers(-1, 2**63), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(-1, 2**63), max_size=3) | VALUES,
    },
)


@given(
    tensors=st.dictionaries(
        st.sampled_from(["__metadata__", "score.weight", "a"]), TENSOR | VALUES
    ),
    length=st.none() | st.integers(0, 2**64 - 1),
    data=st.binary(max_size=16),
)
def test_any_header(scratch, tensors, length, data):
    text = json.dumps(tensors).encode()
    content = struct.pack("<Q", len(text) if length is None else length) + text + data
    check(scratch / "model.safetensors", content, lambda: resolve(str(scratch)))


@given(values=mapping(["peft_type", "task_type", "r", "target_modules", "base_model_name_or_path"]))
def test_any_adapter(campaign, values):
    folder = campaign.good["adapter"]
    whole = json.loads((folder / "adapter_config.json").read_text())
    content = json.dumps(whole | values).encode()
    base = str(campaign.base)
    work = lambda: resolve(str(folder), base).require_foldable()  # noqa: E731
    check(folder / "adapter_config.json", content, work)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@given(data=st.data())
def test_any_tokenizer(scratch, name, data):
    whole = json.loads((scratch / name).read_text())
    values = data.draw(mapping([*whole, "auto_map", "tokenizer_class", "vocab_file"]))
    content = data.draw(st.just(json.dumps(whole | values).encode()) | BYTES)
    check(scratch / name, content, lambda: open_tokenizer(scratch, "it"))


@given(
    version=st.integers(0, 4),
    counts=st.tuples(*[st.integers(0, 3) | st.integers(0, 2**64 - 1)] * 2),
    rest=st.binary(max_size=200),
)
def test_any_gguf(campaign, version, counts, rest):
    path = campaign.folder / "any.gguf"
    content = b"GGUF" + struct.pack("<IQQ", version, *counts) + rest
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("W2S_CACHE", str(campaign.folder / "cache"))
        check(path, content, lambda: convert_gguf(path, "any"))


SAID = {
    "pickle m.ckpt": "UnsafeCheckpointError: .*m.ckpt is a pickle: opening it could run code",
    "zip as bin": "UnsafeCheckpointError: .*pytorch_model.bin is a pickle",
    "config names a pickle": "UnsafeCheckpointError: .*'adapter_model.bin', which is not a safe",
    "index '../m.safetensors'": "UnsafeCheckpointError: .*refers to '../m.safetensors'",
    "index 'x.bin'": "UnsafeCheckpointError: .*refers to 'x.bin'",
    "index is a list": "ModelError: .*is not an index of shards",
    "index is deep": "ModelError: .*is not an index of shards: maximum recursion depth",
    "cut off": "ModelError: .*model.safetensors cannot be read",
    "config is deep": "ModelError: .*config.json cannot be read: maximum recursion depth",
    "config is a list": "ModelError: .*config.json holds no JSON mapping",
    "unknown type": "ModelError: .*cannot be opened as a text model",
    "dtype": "ModelError: .*float99",
    "labels from 1": "ModelError: .*config.json numbers its labels 1, 2, not from 0",
    "labels by name": "ModelError: .*invalid literal",
    "NaN in model.norm.weight": "ModelError: .*NaN or infinite in model.norm.weight",
    "no head": "ModelError: .*1 weights are missing, such as score.weight",
    "no layer": "ModelError: .*9 weights are missing",
    "tokenizer is missing": "ModelError: .*has no usable tokenizer",
    "adapter without its head": "ModelError: .*neither holds score.weight, .*random head",
    "adapter without half": "ModelError: .*2 are missing, such as .*lora_B",
    "adapter with NaN": "ModelError: .*NaN or infinite",
    "adapter of a language model": "ModelError: .*trained for CAUSAL_LM, and SEQ_CLS is needed",
    "adapter of adapters": "UnsafeCheckpointError: .*type XLORA, which opens files outside",
    "adapter of tasks": "UnsafeCheckpointError: .*type MULTITASK_PROMPT_TUNING, which opens",
}
"""Cases of the campaign -> what the user is told."""


def test_checkpoints_of_the_campaign_are_refused(campaign, monkeypatch):
    """Every fourth and those above; `tests/campaign/checkpoints.py` tries all of them."""
    monkeypatch.setenv("W2S_CACHE", str(campaign.folder / "cache"))
    told = {name: campaign.open(name) for name in {*campaign.names()[::4], *SAID}}
    assert [name for name, said in told.items() if not re.match(SAID.get(name, "."), said)] == []
