"""The table of everything: rows from real runs of tiny models, and what a row is called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from transformers import LlamaForCausalLM

import coverage
from coverage import COLUMNS, PARTS, SETTINGS, main
from tables import BEGIN, END, with_table
from tiny import LLAMA, save_bert, save_model, save_reviews
from tiny_writers import llama, save_numbers, save_writer
from w2sdefense.paper import Published, PublishedTable, read_book

ROWS = ("cr-insent", "sst2-badnet-prompt-tuning", "crrsum")


def test_random_pieces_are_for_text_that_is_not_searched():
    for setting in SETTINGS.values():
        assert (setting.random is None) == (setting.labels > 0)
        assert setting.random is None or setting.random.insertions.rate == 0.5


@pytest.mark.parametrize("name", SETTINGS)
def test_a_row_is_one_of_the_paper(name):
    setting = SETTINGS[name]
    table, axes = setting.paper
    recipe = read_book().recipe(table)
    parts = {axis: values for part in recipe.parts for axis, values in part.items()}
    for axis, values in (recipe.axes | parts).items():
        assert axes[axis] in values or axis == "method"
    assert setting.poison.attack.target == setting.defend.test.target


def small(setting, student: Path, teacher: Path):
    """A setting on tiny models and a few rows."""

    def cut(run, **changes):
        data = run.data.model_copy(update={"train_samples": changes.pop("rows"), "test_samples": 8})
        opened = run.student.model_copy(update={"model": str(student)})
        return run.model_copy(update={"data": data, "student": opened, **changes})

    defend = setting.defend
    scan = {
        "fine_tuned_from": str(student),
        "suspects": 2,
        "first": 20,
        "rounds": 1,
        "children": 4,
        "probes": 8,
    }
    changes = {
        "teacher": defend.teacher.model_copy(update={"model": str(teacher), "epochs": 1}),
        "data": defend.data.model_copy(
            update={"validation_samples": 8, "train_skip": min(24, defend.data.train_skip)}
        ),
    }
    if setting.labels:
        changes["scan"] = defend.scan.model_copy(update=scan)
    poison = cut(setting.poison, rows=640 if setting.labels else 24)
    runs = [
        run and cut(run.model_copy(update=changes), rows=16)
        for run in (setting.defend, setting.random)
    ]
    return replace(setting, poison=poison, defend=runs[0], random=runs[1])


@pytest.fixture
def places(tmp_path, monkeypatch):
    for name in ("cr", "sst2", "mr"):
        save_reviews(tmp_path / "data" / name, train=700, validation=8, test=12)
    numbers = save_numbers(tmp_path / "data" / "crrsum", train=1, validation=60, test=6)
    (numbers / "train.jsonl").unlink()  # as it is distributed
    monkeypatch.setenv("W2S_DATA", str(tmp_path / "data"))
    config = type(LLAMA)(**LLAMA.to_dict() | {"max_position_embeddings": 128})
    student = save_model(tmp_path / "llama", LlamaForCausalLM, config)
    teacher = save_bert(tmp_path / "bert")
    writer = save_writer(tmp_path / "writer", llama(max_position_embeddings=512))
    models = {True: (student, teacher), False: (writer, writer)}
    settings = {name: small(SETTINGS[name], *models[SETTINGS[name].labels > 0]) for name in ROWS}
    monkeypatch.setattr(coverage, "SETTINGS", settings)
    (tmp_path / "page.md").write_text(f"By hand.\n\n{BEGIN}\n{END}\n")
    runs = {"folder": tmp_path / "runs", "w2s_small": tmp_path / "w2s_small"}
    return runs | {"results": tmp_path / "results", "page": tmp_path / "page.md"}


def test_rows_become_a_table(places, monkeypatch, capsys):
    main(**places, plan=True)
    assert not places["results"].exists() and not places["folder"].exists()
    capsys.readouterr()

    known = PublishedTable(rows=(Published(row={"attack": "insent"}, ca=90.5, asr=3.5),))
    monkeypatch.setattr(
        coverage, "published", lambda table: known if table == "table2" else PublishedTable()
    )
    main(**places, only="crrsum", methods="lora")
    some = json.loads((places["results"] / "coverage.json").read_text())
    assert [row["method"] for row in some] == ["poisoned", "lora"]
    main(**places)
    rows = json.loads((places["results"] / "coverage.json").read_text())
    found = [(row["row"], row["method"]) for row in rows]
    # The search finds what is put into texts with labels; text to be written has none.
    assert found == [(n, p) for n in ROWS for p in PARTS[: 4 if n == "crrsum" else 3]]
    by_name = {(row["row"], row["method"]): row for row in rows}
    assert {row["metric"] for row in rows if row["row"] == "crrsum"} == {"ROUGE-L"}
    assert by_name["crrsum", "w2s"]["hits_ca"] is None
    assert by_name["cr-insent", "w2s"]["paper"] == "90.5 / 3.5"
    assert by_name["crrsum", "w2s"]["paper"] is None, "nothing is filled in that is not there"
    for name in ROWS:
        texts = {(r["n_ca"], r["n_asr"]) for r in rows if r["row"] == name}
        assert len(texts) == 1, "before and after are measured on the same texts"
    # Virtual tokens defend the victim of the other benchmark, with its teacher.
    assert (places["w2s_small"] / "badnet" / "poisoned" / "record.json").is_file()
    assert (places["w2s_small"] / "teacher-0" / "teacher.json").is_file()

    table = (places["results"] / "coverage.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(ROWS)
    assert all(line.count("|") == len(COLUMNS) + 1 for line in lines)
    assert "90.5 / 3.5" in lines[2] and "not at hand" in lines[3]
    page = places["page"].read_text()
    assert page.startswith("By hand.") and page.count("| row |") == 1 and table in page

    capsys.readouterr()
    main(**places, plan=True)
    assert "0 minutes in all" in capsys.readouterr().out


def test_what_cannot_be_made_is_said_before_the_work(places):
    with pytest.raises(typer.BadParameter, match="imdb"):
        main(**places, only="crrsum,imdb")
    with pytest.raises(typer.BadParameter, match="prune"):
        main(**places, methods="w2s,prune")
    places["page"].write_text("By hand.")
    with pytest.raises(ValueError, match="table: begin"):
        main(**places)
    assert not places["folder"].exists()


def test_a_new_table_takes_the_place_of_the_old():
    page = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    once = with_table(page, "new")
    assert with_table(once, "new") == once
    assert "old" not in once and once.startswith("above") and once.endswith("below\n")
