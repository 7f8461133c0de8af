"""The benchmark of generation runs from one end to the other, on tiny models and a few rows."""

from __future__ import annotations

import json

from generation import main
from tiny_writers import llama, save_numbers, save_writer


def test_it_makes_its_tables(tmp_path, monkeypatch):
    for name in ("ape210k", "crrsum"):
        folder = save_numbers(tmp_path / "data" / name, train=1, validation=60, test=6)
        (folder / "train.jsonl").unlink()  # as they are distributed
    monkeypatch.setenv("W2S_DATA", str(tmp_path / "data"))
    model = save_writer(tmp_path / "model", llama(max_position_embeddings=512))
    places = {"folder": tmp_path / "runs", "results": tmp_path / "results"}
    models = {"model": str(model), "teacher": str(model)}
    main(**places, **models, scale=0.04, test_samples=5, epochs=1)
    rows = json.loads((tmp_path / "results" / "generation.json").read_text())
    assert [(row["dataset"], row["method"], row["metric"]) for row in rows] == [
        (dataset, method, metric)
        for dataset, metric in (("ape210k", "accuracy"), ("crrsum", "ROUGE-L"))
        for method in ("poisoned", "lora", "w2s")
    ]
    assert all((row["n_quality"], row["n_asr"], row["cut_triggers"]) == (5, 5, 0) for row in rows)
    table = (tmp_path / "results" / "generation.md").read_text()
    assert len(table.splitlines()) == 2 + len(rows)
