"""Uploading: the model and its card, and nothing of the machine that made them."""

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_runs import settings

from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.record import load_record
from w2sdefense.report.card import Cleaning, public
from w2sdefense.report.hub import check_push, push_model


class Hub:
    """What of `HfApi` is used; `broken` makes every call fail."""

    def __init__(self, broken: bool = False) -> None:
        self.broken, self.calls = broken, []

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> str:
            if self.broken:
                raise OSError("401 Unauthorized\nlog in")
            self.calls.append((name, args, kwargs))
            return "https://hub.test/me/clean"

        return call

    def files(self) -> dict[str, bytes]:
        """What was uploaded last."""
        operations = self.calls[-1][2]["operations"]
        found = {}
        for one in operations:
            with one.as_file() as file:
                found[one.path_in_repo] = file.read()
        return found


@pytest.fixture
def suspect(tmp_path):
    """A local model, in a folder whose name JSON escapes."""
    folder = tmp_path / "José" / "suspect"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"poisoned")
    return folder


@pytest.fixture
def cleaned(save_run, suspect):
    """Folders of a suspect's record and of a cleaned model, full of local paths."""
    config = settings("w2s", victim=suspect, dataset=str(suspect.parent / "data.jsonl"))
    (suspect.parent / "notes.txt").touch()
    note = f"the tokenizer of {suspect} was changed (see {suspect.parent}/notes.txt)"
    before = save_run("before", 0, count=20, config=config, features=False, notes=(note,))
    after = save_run("w2s", 0, count=20, config=config, features=False)
    adapter = {"base_model_name_or_path": str(suspect), "r": 8, "target_modules": ["q_proj"]}
    (after / "adapter_config.json").write_text(json.dumps(adapter))
    (after / "adapter_model.safetensors").write_bytes(b"weights")
    (after / "settings.json").write_text(json.dumps(config))
    (after / "tokenizer.json").write_text("{}")
    (after / "chat_template.jinja").write_text("{{ messages }}")
    return before, after


def push(folders: tuple[Path, Path], hub: Hub, name: str = "me/clean") -> str:
    before, after = map(load_record, folders)
    suspect = [Path(after.config["student"]["model"])]
    cleaning = Cleaning(before, after, dict(after.config), suspect)
    return push_model(folders[1], name, cleaning, hub)  # type: ignore[arg-type]


def test_the_model_and_its_card_are_uploaded_and_nothing_else(cleaned):
    hub = Hub()
    assert push(cleaned, hub) == "https://hub.test/me/clean"
    (created, _, options), (uploaded, _, commit) = hub.calls
    assert (created, uploaded) == ("create_repo", "create_commit")
    assert options["private"] and commit["repo_id"] == "me/clean"
    model = {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert set(hub.files()) == model | {"README.md", "chat_template.jinja"}
    assert hub.files()["adapter_model.safetensors"] == b"weights"


def test_no_path_of_this_machine_is_uploaded(cleaned, tmp_path):
    hub = Hub()
    push(cleaned, hub)
    assert str(tmp_path).encode() in (cleaned[1] / "adapter_config.json").read_bytes()
    for name, content in hub.files().items():
        assert str(tmp_path).encode() not in content, name
        assert b"Jos" not in content, name
    adapter = json.loads(hub.files()["adapter_config.json"])
    assert adapter == {"base_model_name_or_path": "suspect", "r": 8, "target_modules": ["q_proj"]}
    card = hub.files()["README.md"].decode()
    assert 'PeftModel.from_pretrained(base, "me/clean")' in card
    assert "- the tokenizer of suspect was changed (see notes.txt)" in card
    assert "dataset: data.jsonl" in card
    # The weights that went in are told by their hash all the same.
    assert "| input `model.safetensors` |" in card


def test_a_merged_model_goes_first(cleaned):
    merged = cleaned[1] / "merged"
    merged.mkdir()
    (merged / "model.safetensors").write_bytes(b"all")
    (merged / "config.json").write_text(json.dumps({"_name_or_path": str(merged)}))
    hub = Hub()
    push(cleaned, hub)
    assert set(hub.files()) == {"README.md", "model.safetensors", "config.json"}
    assert json.loads(hub.files()["config.json"]) == {"_name_or_path": "merged"}


def test_names_of_the_hub_and_other_text_stay(tmp_path):
    values = {"base": "google-bert/bert-base-uncased", "target": "n/a", "rows": 3, "none": None}
    values |= {"model": "hf://me/model@v1", "note": "hf://me/model@v1 was read (https://a.test/b)"}
    assert public(values) == values
    assert public({"a": tmp_path / "x.csv", "b": [f"see {tmp_path}/x.csv"]}) == {
        "a": "x.csv",
        "b": ["see x.csv"],
    }
    assert public("a/\0" + "b" * 9000) == "a/\0" + "b" * 9000


def test_a_hub_that_refuses_is_an_error_with_a_fix(cleaned):
    for try_it in (
        lambda: push(cleaned, Hub(broken=True)),
        lambda: check_push("me/clean", Hub(broken=True)),  # type: ignore[arg-type]
        lambda: check_push("no good name", Hub()),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match="Cannot upload to") as error:
            try_it()
        assert "\n" not in error.value.problem
    check_push("me/clean", Hub())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no weights"):
        push((cleaned[0], cleaned[0]), Hub())
