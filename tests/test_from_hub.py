"""Models of a hub, by id and revision, from the command line to the card; the hub is its cache."""

import json
import re
from pathlib import Path

import pytest
import yaml
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    LlamaForSequenceClassification,
    pipeline,
)
from typer.testing import CliRunner

from tiny import LLAMA, save_model, save_reviews
from w2sdefense.cli.app import app
from w2sdefense.errors import ModelError
from w2sdefense.evaluation.record import load_record
from w2sdefense.models.checkpoint import resolve

NAMED = type(LLAMA)(**LLAMA.to_dict() | {"id2label": {0: "negative", 1: "positive"}})


@pytest.fixture
def suspect(tmp_path: Path) -> Path:
    """A classifier with names for its labels."""
    return save_model(tmp_path / "suspect", LlamaForSequenceClassification, NAMED)


@pytest.fixture
def adapter(tmp_path: Path, suspect: Path) -> Path:
    """An adapter on the suspect."""
    model = AutoModelForSequenceClassification.from_pretrained(suspect)
    settings = LoraConfig(task_type=TaskType.SEQ_CLS, r=2, target_modules=["q_proj"])
    get_peft_model(model, settings).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def defend(folder: Path, *words: str) -> Path:
    """Clean a model, quickly and badly."""
    data = save_reviews(folder / "data", train=24, validation=8, test=8)
    words = ("defend", "--defense", "lora", "--epochs", "1", "--dataset", str(data), *words)
    result = CliRunner().invoke(app, [*words, "--output", str(folder / "run")])
    assert result.exit_code == 0, result.output
    return folder / "run"


def loads(card: Path) -> dict:
    """What the lines of a card that load the model leave behind."""
    names: dict = {}
    exec(re.search(r"```python\n(.*?)```", card.read_text(), re.DOTALL)[1], names)
    return names


@pytest.mark.parametrize("prefix", ["", "hf://", "hf://models/"])
def test_a_revision_is_the_one_that_is_opened(publish, tiny_llama, suspect, prefix):
    main = publish("somebody/model", tiny_llama)
    tagged = publish("somebody/model", suspect, "refs/pr/1")
    assert resolve(f"{prefix}somebody/model").commit == main
    found = resolve(f"{prefix}somebody/model@refs/pr/1")
    assert (found.commit, found.has_head) == (tagged, True)
    assert resolve(f"{prefix}somebody/model@{main}").commit == main


def test_a_branch_that_moves_during_a_run_does_not_change_the_model(publish, tiny_llama, suspect):
    publish("somebody/model", tiny_llama, "first")
    first = resolve("somebody/model@first").folder
    (first.parents[1] / "refs" / "first").write_text(publish("somebody/model", suspect))
    assert resolve("somebody/model@first").folder == first


@pytest.mark.parametrize("spec", ["hf://somebody/model@v2", "hf://a/b/c/d", "somebody/model@ v1"])
def test_a_revision_or_a_model_that_is_not_there_is_an_error(publish, tiny_llama, spec):
    publish("somebody/model", tiny_llama)
    with pytest.raises(ModelError, match=re.escape(spec)):
        resolve(spec)


def test_a_folder_has_no_commit(tiny_llama):
    assert resolve(str(tiny_llama)).commit is None


@pytest.mark.slow
def test_record_and_card_of_a_model_of_the_hub_name_the_revision(publish, suspect, tmp_path):
    commit = publish("somebody/suspect", suspect, "v1")
    run = defend(tmp_path, "--model", "hf://somebody/suspect@v1", "--merge")
    before, after = load_record(run / "before"), load_record(run)
    assert after.config["student"]["model"] == "hf://somebody/suspect@v1"
    note = f"hf://somebody/suspect@v1 was read at the commit {commit}"
    assert note in before.notes
    card = (run / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "somebody/suspect"
    assert note in card and "| input `model.safetensors` |" in card
    assert 'from_pretrained("somebody/suspect", revision="v1", num_labels=2)' in card
    assert "default" in loads(run / "README.md")["model"].peft_config

    (answer,) = pipeline("text-classification", model=str(run / "merged"))("a great film")
    assert answer["label"] in ("negative", "positive")
    assert loads(run / "merged" / "README.md")["ask"].model.config.id2label == {
        0: "negative",
        1: "positive",
    }


@pytest.mark.slow
def test_an_adapter_and_its_base_have_revisions_of_their_own(publish, suspect, adapter, tmp_path):
    commits = publish("somebody/adapter", adapter, "v2"), publish("else/base", suspect, "v1")
    run = defend(tmp_path, "--model", "somebody/adapter@v2", "--base", "hf://else/base@v1")
    notes = load_record(run / "before").notes
    assert f"somebody/adapter@v2 was read at the commit {commits[0]}" in notes
    assert f"hf://else/base@v1 was read at the commit {commits[1]}" in notes
    card = (run / "README.md").read_text()
    assert "| input `adapter_model.safetensors` |" in card
    assert "| input `model.safetensors` |" in card
    loads(run / "README.md")  # of merged/: the new adapter fits the fold of the two only


@pytest.mark.slow
def test_a_pushed_adapter_names_hub_id_and_commit_of_its_base(
    publish, suspect, tmp_path, monkeypatch
):
    uploaded = {}

    class Hub:
        def whoami(self):
            return {"name": "me"}

        def create_repo(self, name, **_):
            return f"https://hub.test/{name}"

        def create_commit(self, operations, **_):
            for one in operations:
                with one.as_file() as file:
                    uploaded[one.path_in_repo] = file.read().decode(errors="replace")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    commit = publish("somebody/suspect", suspect)
    defend(tmp_path, "--model", "somebody/suspect", "--push-to-hub", "me/clean")
    config = json.loads(uploaded["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == ("somebody/suspect", commit)
    assert f"was read at the commit {commit}" in uploaded["README.md"]
    assert str(tmp_path) not in "".join(uploaded.values())
