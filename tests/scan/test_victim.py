"""The search of a victim: what is cached, what is said, and the base that a card names."""

import shutil
from pathlib import Path

import pytest

from architectures import make
from making import reviews
from tiny import SMALL_SCAN, save_llama
from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.errors import DataError
from w2sdefense.scan.search import Candidate, ScanResult
from w2sdefense.scan.victim import found_triggers, save_candidates, scan_victim
from w2sdefense.tasks.classification import Classification
from w2sdefense.victim import load_victim

SMALL = ScanConfig.model_validate(SMALL_SCAN | {"base_tokens": 4})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return reviews(tmp_path_factory.mktemp("data") / "reviews", train=40, validation=8, test=8)


@pytest.fixture(scope="module")
def teacher():
    backbone, tokenizer, _ = make("bert", "Model")
    return LabelTeacher(backbone, tokenizer, 32, 2, max_length=24)


def suspect(folder: Path, token: int, card: str | None = None):
    """A classifier made from `save_llama`'s model, of which one embedding moved."""
    save_llama(folder)
    names = ("negative", "positive")
    config = StudentConfig(model=str(folder), max_length=24)
    victim = load_victim(config, names, fresh_head_seed=0)
    victim.model.get_input_embeddings().weight.data[token] += 0.1
    victim.save(folder)
    if card is not None:
        (folder / "README.md").write_text(f"---\nbase_model: {card}\n---\n")
    return load_victim(config)


def test_the_base_on_the_card_is_used_without_being_named(tmp_path, teacher, data, monkeypatch):
    save_llama(tmp_path / "org" / "small")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    token = 20
    victim = suspect(tmp_path / "suspect", token, card="org/small")
    asked: list[str] = []
    monkeypatch.setattr(
        "w2sdefense.scan.victim.token_texts", lambda tokenizer, tokens: asked.extend(tokens) or []
    )
    result = scan_victim(victim, teacher, data, SMALL, 0, tmp_path / "cache", say=said.append)
    assert asked[0] == token
    assert result.origin is not None and "weights agree" in result.origin
    assert "org/small" in said[0] and "candidate triggers" in said[0]


def test_what_was_found_is_not_searched_for_again(tmp_path, teacher, data):
    victim = suspect(tmp_path / "suspect", 20)
    told: list[int] = []

    def progress(step: int, steps: int, losses: dict[str, float]) -> None:
        told.append(step)

    first = scan_victim(victim, teacher, data, SMALL, 0, tmp_path / "cache", progress)
    assert told and told[-1] <= told[0] + 10_000
    told.clear()
    assert scan_victim(victim, teacher, data, SMALL, 0, tmp_path / "cache", progress) == first
    assert not told
    shutil.rmtree(tmp_path / "cache")
    assert scan_victim(victim, teacher, data, SMALL, 0, tmp_path / "cache") == first


def test_no_candidate_is_cut_off(tmp_path, teacher, data, monkeypatch):
    """Whatever the model is cut at for its task: groups shrink until they fit."""
    monkeypatch.setattr("w2sdefense.scan.victim.ROOM", 40)
    victim, lengths = suspect(tmp_path / "suspect", 20), []

    def measured(self, model, texts, progress=None):
        lengths.extend(len(text.split()) for text in texts)
        return predict(self, model, texts, progress)

    predict = Classification.predict
    monkeypatch.setattr(Classification, "predict", measured)
    config = SMALL.model_copy(update={"group_size": 30})
    scan_victim(victim, teacher, data, config, 0, tmp_path / "cache")
    assert lengths and max(lengths) <= 40


def test_what_acts_like_a_trigger_is_read_from_the_folder_of_a_search(tmp_path):
    strong, weak = Candidate("xq", 1, 8.0, 0.5, 10, 10), Candidate("awful", 0, 2.0, 2.0, 4, 10)
    save_candidates(tmp_path, ScanResult((weak, strong), {}, [], {}), ("negative", "positive"))
    assert found_triggers(tmp_path, None) == [("xq", "positive")]
    assert found_triggers(tmp_path, ("positive", "negative")) == [("xq", "positive")]
    with pytest.raises(DataError, match="for another model: this one has no label 'positive'"):
        found_triggers(tmp_path, ("good", "bad"))
    save_candidates(tmp_path, ScanResult((weak,), {}, [], {}), ("negative", "positive"))
    with pytest.raises(DataError, match="lists no trigger"):
        found_triggers(tmp_path, None)


@pytest.mark.parametrize("content", [None, "[]", "{", '{"candidates": [{"text": "xq"}]}'])
def test_what_is_no_search_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "candidates.json").write_text(content)
    with pytest.raises(DataError, match=r"candidates\.json cannot be read"):
        found_triggers(tmp_path, None)
