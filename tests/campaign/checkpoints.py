"""A hundred malicious or mangled checkpoints: each is refused, and nothing in them runs.

Run it with `PYTHONPATH=tests python tests/campaign/checkpoints.py`; the tests run a part of it.
"""

import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

from tiny import LLAMA, edit_json, edit_weights, save_llama, save_model
from w2sdefense.errors import W2SError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import quiet_transformers
from w2sdefense.models.load import load_classifier

Spoil = Callable[[Path], None]
"""Spoils a good classifier (or an adapter on a base) in a folder."""

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
DEEP = '{"a":' * 50_000
_WATCHED = "pickle.find_class subprocess.Popen os.system os.posix_spawn socket.connect".split()
_forbidden: list[str] | None = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _forbidden is None:
        return
    if event in _WATCHED:
        _forbidden.append(f"{event}{arguments!r}"[:200])
    elif event == "open" and isinstance(arguments[0], str) and arguments[2]:
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        place = os.path.realpath(arguments[0])
        ours = (tempfile.gettempdir(), "/dev/")
        if writes and "__pycache__" not in place and not place.startswith(ours):
            _forbidden.append(f"writes {place}")


sys.addaudithook(_watch)


@contextmanager
def nothing_runs() -> Iterator[None]:
    """Insist that the block unpickles, starts and sends nothing, and writes to no other place.

    Raises:
        AssertionError: It did.
    """
    global _forbidden
    _forbidden = []
    try:
        yield
        if _forbidden:
            raise AssertionError(_forbidden)
    finally:
        _forbidden = None


def bomb(folder: Path) -> bytes:
    """A pickle that leaves a file behind when it is opened, in its text protocol."""
    return f"cos\nsystem\n(S'touch {folder / 'ran'}'\ntR.".encode()


def write(name: str, content: str | bytes) -> Spoil:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data) and None


def config(name: str = "config.json", **changes: Any) -> Spoil:
    return lambda folder: edit_json(folder / name, **changes)


def only(name: str, content: Callable[[Path], bytes] = bomb) -> Spoil:
    """A file in the place of the weights."""

    def spoil(folder: Path) -> None:
        next(folder.glob("*model.safetensors")).unlink()
        (folder / name).write_bytes(content(folder))

    return spoil


def zipped(folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        archive.writestr("archive/data.pkl", bomb(folder))
        archive.writestr("../../outside", "x")
    return (folder / "archive.zip").read_bytes()


def header(text: str, length: int | None = None, data: bytes = b"") -> Spoil:
    raw = text.encode()
    size = struct.pack("<Q", len(raw) if length is None else length)
    return write("model.safetensors", size + raw + data)


def tensor(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> str:
    return json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}})


def index(shards: Any) -> Spoil:
    return write("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": shards}))


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    return lambda folder: edit_weights(folder, change)


def fill(name: str, value: float) -> Spoil:
    return weights(lambda values: values[name].view(-1)[-1:].fill_(value))


def drop(name: str) -> Spoil:
    return weights(lambda values: [values.pop(key) for key in [*values] if name in key])


def resized(name: str, *shape: int) -> Spoil:
    return weights(lambda values: values.update({name: torch.zeros(shape)}))


def cut(folder: Path) -> None:
    path = next(folder.glob("*model.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])


def remote(**auto_map: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
        config(model_type="evil", auto_map=auto_map)(folder)

    return spoil


HEAD, EMBEDDING, NORM = "score.weight", "model.embed_tokens.weight", "model.norm.weight"
LAYER = "model.layers.0.self_attn.q_proj"
LORA = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BYTES = {
    "float": tensor("F99"),
    "negative": tensor(offsets=(-4, 0)),
    "far": tensor(offsets=(0, 9**9)),
}

MODELS: dict[str, Spoil] = {
    # Pickles
    **{f"pickle {name}": only(name) for name in ("pytorch_model.bin", "m.pt", "m.pth", "m.ckpt")},
    **{f"pickle {name}": only(name) for name in ("m.pkl", "m.pickle", "model.safetensors")},
    "zip as safetensors": only("model.safetensors", zipped),
    "zip as bin": only("pytorch_model.bin", zipped),
    "pickle behind another name": only("other.safetensors"),
    "config names a pickle": config(transformers_weights="adapter_model.bin"),
    "config names a path": config(transformers_weights="../../x.bin"),
    # Paths out of the folder
    **{
        f"index {shard!r}": index({HEAD: shard})
        for shard in (
            "../m.safetensors",
            "/etc/passwd",
            "x.bin",
            "a/b.safetensors",
            None,
            3,
            [],
            {},
        )
    },
    "index is a list": write("model.safetensors.index.json", "[]"),
    "index is null": write("model.safetensors.index.json", "null"),
    "index without a map": write("model.safetensors.index.json", '{"metadata": {}}'),
    "index is deep": write("model.safetensors.index.json", DEEP),
    "index is binary": write("model.safetensors.index.json", b"\xff\xfe\x00"),
    # Code
    "remote config": remote(AutoConfig="evil.Evil"),
    "remote model": remote(AutoModelForSequenceClassification="evil.Evil"),
    "remote of another repository": remote(AutoConfig="who/ever--evil.Evil"),
    # Headers
    "empty file": write("model.safetensors", b""),
    "seven bytes": write("model.safetensors", b"\0" * 7),
    "length 0": header("", 0),
    "length 2^63": header("{}", 2**63),
    "length 2^64 - 1": header("{}", 2**64 - 1),
    "length of a gigabyte": header("{}", 2**30),
    "header is no JSON": header("{nothing"),
    "header is a list": header("[]"),
    "header is deep": header(DEEP),
    "header is no text": write("model.safetensors", struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc"),
    **{f"offsets or type {name}": header(text, data=b"\0" * 4) for name, text in BYTES.items()},
    "shape of another size": header(tensor(shape=(7,)), data=b"\0" * 4),
    "shape overflows": header(tensor(shape=(2**62, 2**62)), data=b"\0" * 4),
    "negative shape": header(tensor(shape=(-1,)), data=b"\0" * 4),
    "no shape": header('{"a": {"dtype": "F32"}}', data=b"\0" * 4),
    "bytes that belong to nothing": header(tensor(), data=b"\0" * 5),
    "cut off": cut,
    # Configs
    "config is deep": write("config.json", DEEP),
    "config is a list": write("config.json", "[]"),
    "config is binary": write("config.json", b"\x80\x04\x95"),
    "config is empty": write("config.json", ""),
    "config says nothing": write("config.json", "{}"),
    "config is missing": lambda folder: (folder / "config.json").unlink(),
    "unknown type": config(model_type="nothing-known"),
    "type is a list": config(model_type=["llama"]),
    "dtype": config(dtype="float99"),
    "labels from 1": config(id2label={"1": "a", "2": "b"}),
    "labels by name": config(id2label={"a": "b", "c": "d"}),
    "labels in a list": config(id2label=["a", "b"]),
    "labels with a gap": config(id2label={"0": "a", "2": "b"}),
    "three labels": config(id2label={"0": "a", "1": "b", "2": "c"}),
    "no heads": config(num_attention_heads=0),
    "width is text": config(hidden_size="wide"),
    "negative words": config(vocab_size=-1),
    "a billion layers": config(num_hidden_layers=10**9),
    "more layers": config(num_hidden_layers=4),
    "fewer layers": config(num_hidden_layers=1),
    "a hundred million units": config(intermediate_size=10**8),
    "no numbers in a setting": config(rms_norm_eps=float("nan")),
    "labels alike": config(id2label={"0": "a", "1": "a"}),
    "no choice of a label": config(problem_type="multi_label_classification"),
    "activation": config(hidden_act="evil"),
    "a file of LFS as config": write("config.json", LFS),
    # Weights
    **{f"NaN in {name}": fill(name, float("nan")) for name in (HEAD, EMBEDDING, NORM)},
    **{f"infinity in {name}": fill(name, float("inf")) for name in (HEAD, EMBEDDING, NORM)},
    "minus infinity": fill(NORM, float("-inf")),
    "no head": drop("score"),
    "no embeddings": drop("embed_tokens"),
    "no layer": drop("layers.1"),
    "a bias without a place": weights(lambda v: v.update({"score.bias": torch.ones(2)})),
    "an adapter beside it": weights(lambda v: v.update({f"{LAYER}.lora_A": torch.ones(4, 32)})),
    "wider head": resized(HEAD, 2, 64),
    "more outputs": resized(HEAD, 5, 32),
    "flat norm": resized(NORM, 1, 1),
    "more words": resized(EMBEDDING, 500, 32),
    "LFS": write("model.safetensors", LFS),
    # Tokenizers
    "tokenizer is missing": lambda folder: [p.unlink() for p in folder.glob("tokenizer*")] and None,
    "tokenizer is empty": write("tokenizer.json", ""),
    "tokenizer is deep": write("tokenizer.json", DEEP),
    "tokenizer says nothing": write("tokenizer.json", "{}"),
    "tokenizer is LFS": write("tokenizer.json", LFS),
    "tokenizer of another kind": config("tokenizer.json", model={"type": "Evil"}),
    "chat template is a number": config("tokenizer_config.json", chat_template=7),
    "chat templates are numbers": config("tokenizer_config.json", chat_template={"default": 7}),
    "tokenizer settings are a list": write("tokenizer_config.json", "[]"),
    "tokenizer settings are deep": write("tokenizer_config.json", DEEP),
}

ADAPTERS: dict[str, Spoil] = {
    "adapter without its head": drop("score"),
    "adapter without half": drop("lora_B"),
    "adapter with NaN": fill(LORA, float("nan")),
    "adapter whose scale is NaN": config("adapter_config.json", lora_alpha=float("nan")),
    "adapter whose scale is infinite": config("adapter_config.json", lora_alpha=1e300),
    "adapter of another rank": config("adapter_config.json", r=2),
    "adapter on another module": config("adapter_config.json", target_modules=["v_proj"]),
    "adapter on no module": config("adapter_config.json", target_modules=["nothing"]),
    "adapter of a language model": config("adapter_config.json", task_type="CAUSAL_LM"),
    "adapter of no kind": config("adapter_config.json", peft_type="EVIL"),
    "adapter of adapters": config("adapter_config.json", peft_type="XLORA", adapters={"a": "/x"}),
    "adapter of tasks": config("adapter_config.json", peft_type="MULTITASK_PROMPT_TUNING"),
    "adapter is deep": write("adapter_config.json", DEEP),
    "adapter is a list": write("adapter_config.json", "[]"),
    "adapter as a pickle": only("adapter_model.bin"),
    "adapter with another shape": resized(LORA, 3, 7),
    "adapter is cut off": cut,
    "adapter is LFS": write("adapter_model.safetensors", LFS),
}

FILES: dict[str, bytes] = {
    "m.bin": b"\x80\x04.",
    "short.gguf": b"GG",
    "nothing.gguf": b"GGUF",
    "version.gguf": b"GGUF" + struct.pack("<IQQ", 99, 1, 1),
    "counts.gguf": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
    "pickle.gguf": b"\x80\x04" + b"." * 100,
    "pointer.gguf": LFS.encode(),
}
"""Files that are named themselves."""


class Campaign:
    """Builds spoiled checkpoints below a folder and opens them.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = save_llama(folder / "base")
        self.good = {
            "model": save_model(folder / "model", LlamaForSequenceClassification, LLAMA),
            "adapter": folder / "adapter",
        }
        model = AutoModelForSequenceClassification.from_pretrained(self.base)
        settings = LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["q_proj"])
        get_peft_model(model, settings).save_pretrained(self.good["adapter"])

    def names(self) -> list[str]:
        """Of all cases."""
        return [*MODELS, *ADAPTERS, *FILES]

    def open(self, name: str) -> str:
        """Open one case.

        Returns:
            What the user is told; empty if nothing is wrong with it.

        Raises:
            AssertionError: Something ran, or was written elsewhere.
            Exception: Whatever is not one of our own errors.
        """
        place, base = self.folder / "case", None
        if name in FILES:
            place.mkdir()
            (place / name).write_bytes(FILES[name])
            spec = place / name
        else:
            shutil.copytree(self.good["model" if name in MODELS else "adapter"], place)
            (MODELS | ADAPTERS)[name](place)
            spec, base = place, None if name in MODELS else str(self.base)
        try:
            with nothing_runs(), quiet_transformers():
                load_classifier(resolve(str(spec), base), label_names=("a", "b"))
        except W2SError as error:
            told = f"{type(error).__name__}: {error.problem}" if error.fix else ""
        else:
            told = ""
        finally:
            if (place / "ran").exists():
                raise AssertionError(f"{name} ran")
            shutil.rmtree(place)
        return told


def main() -> None:
    """Run all cases and print what the user is told."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["W2S_CACHE"] = f"{name}/cache"
        campaign = Campaign(Path(name))
        opened = [case for case in campaign.names() if not _told(campaign, case)]
        sys.stdout.write(f"{len(campaign.names())} checkpoints, not refused: {opened}\n")


def _told(campaign: Campaign, case: str) -> str:
    try:
        told = campaign.open(case)
    except Exception as error:
        told, case = "", f"{case} !! {type(error).__name__}: {str(error)[:200]}"
    sys.stdout.write(f"{case:36} {told.replace(str(campaign.folder), '')[:150]}\n")
    sys.stdout.flush()
    return told


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
