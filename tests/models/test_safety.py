"""A suspect checkpoint is an untrusted file: nothing in it runs, whatever it is called."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForSequenceClassification

from tiny import LLAMA, edit_json, save_model
from w2sdefense.errors import ModelError, UnsafeCheckpointError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.load import load_backbone, load_classifier


@pytest.fixture
def folder(tmp_path):
    """A classifier that opens."""
    return save_model(tmp_path / "model", LlamaForSequenceClassification, LLAMA)


def to_pickle(folder: Path, name: str = "pytorch_model.bin") -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / name)
    weights.unlink()


def test_a_folder_of_pickles_is_refused_with_a_way_out(folder):
    to_pickle(folder)
    with pytest.raises(UnsafeCheckpointError, match=r"pytorch_model\.bin") as caught:
        load_classifier(str(folder))
    assert "safetensors" in caught.value.fix
    assert "weights_only=True" in caught.value.fix


def test_a_pickle_that_is_named_itself_is_refused(folder):
    to_pickle(folder)
    with pytest.raises(UnsafeCheckpointError, match="could run code"):
        resolve(str(folder / "pytorch_model.bin"))


def test_a_pickle_beside_safetensors_is_left_alone(folder):
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    load_classifier(str(folder))


def test_a_pickle_is_not_opened_behind_safetensors_of_another_name(folder):
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    to_pickle(folder)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load_classifier(str(folder))


def test_an_index_below_the_folder_does_not_lead_elsewhere_either(folder):
    (folder / "deeper").mkdir()
    index = folder / "deeper" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"score.weight": "../x.safetensors"}}))
    with pytest.raises(UnsafeCheckpointError, match="refers to"):
        load_classifier(str(folder))


MARKER = """
from pathlib import Path
Path({marker!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForSequenceClassification, LlamaModel
class EvilConfig(LlamaConfig):
    model_type = "evil"
Evil = LlamaForSequenceClassification
"""


@pytest.mark.parametrize("model_type", ["llama", "evil", "clip_text_model"])
@pytest.mark.parametrize("load", [load_classifier, load_backbone])
def test_code_that_comes_with_a_model_never_runs(folder, tmp_path, monkeypatch, model_type, load):
    marker = tmp_path / "marker"
    (folder / "evil.py").write_text(MARKER.format(marker=str(marker)))
    modules = {"AutoConfig": "evil.EvilConfig"} if model_type == "evil" else {}
    for kind in ("AutoModel", "AutoModelForSequenceClassification"):
        modules[kind] = "evil.Evil"
    edit_json(folder / "config.json", model_type=model_type, auto_map=modules)
    tokenizers = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    edit_json(folder / "tokenizer_config.json", auto_map=tokenizers)
    # Asked on a terminal, somebody says yes.
    monkeypatch.setattr("builtins.input", lambda _: "yes")
    try:
        load(str(folder))
    except UnsafeCheckpointError as error:
        assert model_type != "llama"
        assert "never run" in error.problem
    except ModelError:
        # transformers ships an encoder for this type, but the weights here are not its own.
        assert (model_type, load) == ("clip_text_model", load_backbone)
    else:
        assert model_type == "llama"
    assert not marker.exists()


def test_what_names_code_is_not_handed_on(folder, tmp_path):
    for name in ("config.json", "tokenizer_config.json"):
        evil = {"AutoConfig": "evil/code--evil.C", "AutoTokenizer": ["evil/code--evil.T", None]}
        edit_json(folder / name, auto_map=evil, custom_pipelines={"a": {"impl": "evil.P"}})
    model, tokenizer = load_classifier(str(folder))
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    for saved in (tmp_path / "saved").glob("*.json"):
        assert "evil" not in saved.read_text(), saved.name


# Mangled files


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_in_a_checkpoint_is_named(folder, name):
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    with pytest.raises(ModelError, match=f"{name} is a Git LFS pointer") as caught:
        resolve(str(folder))
    assert "git lfs pull" in caught.value.fix


def test_an_index_without_metadata_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"score.weight": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="cannot be opened as a text model: KeyError 'metadata'"):
        load_classifier(str(folder))
