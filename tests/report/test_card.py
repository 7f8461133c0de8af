"""The model card: what the records say, whatever strings are in them, and where it goes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_runs import rates, settings

from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import HeldOutDecoy, load_record
from w2sdefense.report.card import Cleaning, code, model_card, write_card

DECOY = HeldOutDecoy(
    kind="word",
    trigger="vu",
    target="negative",
    before=Rate(hits=98, total=100),
    after=Rate(hits=9, total=100),
    floor=Rate(hits=8, total=100),
)


@pytest.fixture
def cleaned(save_run):
    """The folders of a suspect's record and of a cleaned model with an adapter."""
    before = save_run("before", 0, evaluation=rates(490), features=False)
    config = settings("w2s", victim="some/suspect")
    after = save_run(
        "w2s", 0, evaluation=rates(42, held_out=(DECOY,)), config=config, features=False
    )
    (after / "adapter_config.json").write_text("{}")
    (after / "adapter_model.safetensors").write_bytes(b"weights")
    return before, after


def card(folders: tuple[Path, Path], **changes: Any) -> str:
    before, after = map(load_record, folders)
    after = after.model_copy(update=changes)
    return model_card(folders[1], Cleaning(before, after, {"defense": "w2s"}))


def header(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_header_is_what_the_hub_reads(cleaned):
    found = header(card(cleaned))
    assert found["base_model"] == "some/suspect" and found["base_model_relation"] == "adapter"
    assert found["datasets"] == ["toy"] and found["library_name"] == "peft"
    assert found["pipeline_tag"] == "text-classification"
    (result,) = found["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "accuracy": 87.0,
        "attack_success_rate": 8.4,
        "floor": 8.0,
        "held_out_decoy": 9.0,
    }


def test_every_number_has_its_interval_and_counts(cleaned):
    text = card(cleaned)
    assert "**The backdoor is removed; no loss of accuracy was measured.**" in text
    for number in ("98.0% [96.4, 98.9] (490/500)", "8.4% [6.3, 11.2] (42/500)", "87.0%"):
        assert number in text
    assert "word: planted and not unlearned: 98 -> 9 % (floor 8)" in text
    assert "Other triggers were not tested" in text and "`mn`" in text
    assert hashlib.sha256(b"weights").hexdigest() in text
    assert "More Information Needed" not in text and "| None" not in text


def test_strings_of_records_neither_end_the_header_nor_become_html(cleaned):
    evil = 'x"\n---\n# <script>alert(1)</script> | ``` a'
    evaluation = rates(42, trigger=evil, target=evil)
    folder, before = cleaned[1], load_record(cleaned[0])
    before = before.model_copy(update={"evaluation": rates(490, trigger=evil, target=evil)})
    config = settings("w2s", victim=evil) | {"data": {"dataset": evil}}
    after = load_record(folder).model_copy(
        update={"evaluation": evaluation, "config": config, "notes": (evil,)}
    )
    text = model_card(folder, Cleaning(before, after, {"test": {"trigger": evil}}))
    assert header(text)["base_model"] == " ".join(evil.split())
    body = text.split("\n---\n", 1)[1]
    assert not any(line.startswith(("# <", "---")) for line in body.splitlines())
    outside = [line for line in body.splitlines() if "<script>" in line and "`" not in line]
    assert all('"' in line for line in outside), "only in the code that loads it"


def test_code_holds_any_text():
    assert code("a`b") == "`` a`b ``"
    assert code("a\n b") == "`a b`"


def test_warnings_come_first(cleaned):
    doubtful = rates(42, labels_by_position=True)
    text = card(cleaned, evaluation=doubtful)
    assert "The measurement cannot be trusted" in text
    assert text.index("**Warning.**") < text.index("## What was suspected")


def test_a_card_lies_beside_the_adapter_and_in_merged(cleaned):
    folder = cleaned[1]
    (folder / "merged").mkdir()
    (folder / "merged" / "model.safetensors").write_bytes(b"all")
    (folder / "README.md").write_text("[More Information Needed]")
    written = write_card(folder, Cleaning(*map(load_record, cleaned), {}))
    assert written == [folder / "merged" / "README.md", folder / "README.md"]
    adapter, merged = (folder / "README.md").read_text(), written[0].read_text()
    assert "PeftModel" in adapter and "pipeline(" not in adapter
    assert 'pipeline("text-classification"' in merged and header(merged)["library_name"] == (
        "transformers"
    )
    assert hashlib.sha256(b"all").hexdigest() in merged


def test_a_defense_that_leaves_no_weights_gets_no_card(save_run):
    folder = save_run("onion", 0, evaluation=rates(42), features=False)
    assert write_card(folder, Cleaning(load_record(folder), load_record(folder), {})) == []
    assert not (folder / "README.md").exists()
