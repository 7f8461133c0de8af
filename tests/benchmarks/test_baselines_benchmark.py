"""The table of all defenses: rows from real runs of tiny models, and the tools' own texts."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

import baselines
from baselines import COLUMNS, METHODS, PAPER, TOOLS, measure_tool, run_row, write_tables
from tiny import LLAMA, save_bert, save_model, save_reviews
from w2s_small import ATTACKS
from w2sdefense.cli.display import Display
from w2sdefense.config import DataConfig
from w2sdefense.defenses import DEFENSES
from w2sdefense.io import write_json
from w2sdefense.paper import Published, PublishedTable, read_book
from w2sdefense.tasks import Prediction

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_every_defense_has_a_row():
    assert {chosen["defense"] for chosen in METHODS.values()} == set(DEFENSES)


class Reader:
    """Answers "negative" to texts that hold a word."""

    label_names = ("negative", "positive")

    def predict(self, texts):
        return [Prediction(int("bad" not in text), (0.5, 0.5), None, None) for text in texts]


@pytest.fixture
def variants(tmp_path):
    """A tool that turned one of three triggers into "bad"."""
    folder = tmp_path / "data" / "sst2" / "variants"
    folder.mkdir(parents=True)
    clean = [("bad", 0), ("good", 1), ("good", 0), ("bad good", 1), ("fine", 1)]
    fired = [("good", 1), ("bad mn", 1), ("fine bad", 1)]
    for tool in TOOLS.values():
        for name, rows in ((f"test_{tool}", clean), (f"test_badnet_{tool}", fired)):
            lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
            (folder / f"{name}.jsonl").write_text("".join(lines))
    return folder


def test_texts_of_a_tool_are_measured_as_they_are(variants):
    found = measure_tool(Reader(), variants, "scpd", 99)
    # Right: bad, good, fine. With the trigger two of three others are called negative, without one.
    assert (found["hits_ca"], found["n_ca"]) == (3, 5)
    assert (found["hits_asr"], found["hits_floor"], found["n_asr"]) == (2, 1, 3)
    assert measure_tool(Reader(), variants, "scpd", 4)["n_asr"] == 2
    (variants / "test_badnet_scpd.jsonl").write_text('{"text": "bad", "label": 0}\n')
    with pytest.raises(ValueError, match="do not line up"):
        measure_tool(Reader(), variants, "scpd", 99)


def test_rows_are_those_of_the_papers_table():
    book = read_book()
    axes = book.recipe("table12").axes
    assert PAPER == {axis: value for axis, (value, *_) in book.common.items() if axis not in axes}
    assert set(axes["method"]) <= {"poisoned", *METHODS} and set(ATTACKS) <= set(axes["attack"])


def test_the_papers_numbers_stand_beside_ours(tmp_path, monkeypatch):
    row = {"student": "llama3-8b", "attack": "insent", "method": "onion"}
    known = PublishedTable(rows=(Published(row=row, ca=90.5, asr=3.5),))
    monkeypatch.setattr(
        baselines, "published", lambda table: known if table == "table12" else PublishedTable()
    )
    kept = (RESULTS / "baselines.json").read_text(encoding="utf-8")
    (tmp_path / "baselines.json").write_text(kept, encoding="utf-8")
    write_tables(tmp_path / "runs", tmp_path)
    lines = (tmp_path / "baselines.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [line for line in lines if line.endswith("| 90.5 / 3.5 |")] == [
        line for line in lines if line.startswith("| insent | onion |")
    ]
    assert sum(line.endswith("| not at hand |") for line in lines) == len(lines) - 1


@pytest.mark.parametrize("page", ["README.md", "docs/baselines.md"])
def test_the_pages_name_what_was_not_run(page):
    rows = json.loads((RESULTS / "baselines.json").read_text(encoding="utf-8"))
    kept = {(row["attack"], row["method"]) for row in rows}
    missing = {
        method for attack, method in product(ATTACKS, METHODS) if (attack, method) not in kept
    }
    said = re.search(r"Not run yet: ([^.]*)\.", (ROOT / page).read_text(encoding="utf-8"))
    assert set(re.findall(r"`(.*?)`", said[1] if said else "")) == missing


def test_the_kept_rows_outlive_a_clone_without_runs(tmp_path):
    kept = (RESULTS / "baselines.json").read_text(encoding="utf-8")
    (tmp_path / "baselines.json").write_text(kept, encoding="utf-8")
    write_tables(tmp_path / "runs", tmp_path)
    assert json.loads((tmp_path / "baselines.json").read_text()) == json.loads(kept)
    table = (tmp_path / "baselines.md").read_text(encoding="utf-8")
    assert table == (RESULTS / "baselines.md").read_text(encoding="utf-8")


def test_rows_become_tables(tmp_path, variants, monkeypatch):
    for name in ("sst2", "mr"):
        save_reviews(tmp_path / "data" / name, train=600, validation=8, test=12)
    monkeypatch.setenv("W2S_DATA", str(tmp_path / "data"))
    config = type(LLAMA)(**LLAMA.to_dict() | {"max_position_embeddings": 256})
    model = str(save_model(tmp_path / "llama", LlamaForCausalLM, config))
    teacher = str(save_bert(tmp_path / "bert"))
    data = DataConfig(dataset="sst2", train_samples=16, validation_samples=8, test_samples=12)
    methods = ("poisoned", "lora", "icl-rationale", "scpd-original")
    with Display() as display:
        for method in [*methods, "lora"]:
            run_row("badnet", method, tmp_path / "runs", data, 1, model, teacher, display)
    write_tables(tmp_path / "runs", tmp_path / "results")
    rows = json.loads((tmp_path / "results" / "baselines.json").read_text())
    assert [row["method"] for row in rows] == list(methods)
    for row in rows:
        assert row["n_ca"] in (12, 5)
        assert row["seconds_per_text"] > 0
        assert row["setup_seconds"] >= 0
        assert row["peak_memory_mb"] > 0
        assert row["paper_llama3"] is None, "nothing is filled in that was not checked"
    # One more row from somewhere else, as with `--only` on a fresh clone.
    later = {"attack": "badnet", "method": "finetune"}
    write_json(tmp_path / "results" / "baselines.json", [*rows[1:], rows[0] | later])
    write_tables(tmp_path / "runs", tmp_path / "results")
    rows = json.loads((tmp_path / "results" / "baselines.json").read_text())
    assert [row["method"] for row in rows] == [*methods[:2], "finetune", *methods[2:]]
    table = (tmp_path / "results" / "baselines.md").read_text().splitlines()
    assert len(table) == 2 + len(rows)
    assert all(line.count("|") == len(COLUMNS) + 1 for line in table)
