"""The grid with the real stages, on tiny models."""

import csv
import json
import random
import shutil
import time
from pathlib import Path

import pytest
import tiny_grid
import torch
from typer.testing import CliRunner

from forked import PROCESSES
from w2sdefense.bench import nodes
from w2sdefense.bench.command import Estimate, run_bench, write_table
from w2sdefense.bench.grid import make_grid
from w2sdefense.bench.ledger import Ledger, Node
from w2sdefense.bench.runner import Job, run_here
from w2sdefense.cli.app import app
from w2sdefense.commands.runs import BenchRun
from w2sdefense.evaluation.record import load_record

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return tiny_grid.save_recipes(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def bench(recipe, tmp_path_factory, quiet) -> BenchRun:
    """A grid that one process ran undisturbed."""
    run = BenchRun(recipe=recipe, scale="tiny", output=tmp_path_factory.mktemp("bench"))
    run_bench(run, quiet)
    return run


def table_of(folder: Path) -> str:
    return (folder / "three-tiny" / "table.json").read_text()


def weights_of(folder: Path) -> dict[str, str]:
    """Fingerprints of the models: a table of a few texts may be equal by chance."""
    found = folder.glob("nodes/*/*/record.json")
    return {path.parent.name: load_record(path.parent).fingerprints["model"] for path in found}


def test_the_table_says_what_the_records_say(bench):
    rows = json.loads(table_of(bench.output))["rows"]
    assert [row["method"] for row in rows] == ["poisoned", "lora", "w2s"]
    for row in rows:
        (folder,) = bench.output.glob(f"nodes/*/{row['method']}")
        found = load_record(folder).evaluation
        assert (row["ca"], row["ca_n"]) == (found.ca.value, found.ca.total)
        assert (row["asr"], row["floor"]) == (found.asr.value, found.floor.value)
        assert (row["asr_low"], row["asr_high"]) == found.asr.interval
        assert row["paper_ca"] is None
    with (bench.output / "three-tiny" / "table.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["poisoned", "lora", "w2s"]
    markdown = (bench.output / "three-tiny" / "table.md").read_text()
    assert "| method | CA | ASR | Floor |" in markdown
    tex = (bench.output / "three-tiny" / "table.tex").read_text()
    assert r"\toprule" in tex
    assert "\\%" in tex


def test_every_defense_has_the_same_victim_and_one_teacher(bench):
    kinds = [path.parent.name.split("-")[0] for path in bench.output.glob("nodes/*/done.json")]
    assert sorted(kinds) == ["defend", "defend", "poison", "teach"]


def test_killed_and_finished_by_two_commands_it_is_the_same_to_the_last_digit(
    recipe, bench, tmp_path
):
    def start():
        process = PROCESSES.Process(target=tiny_grid.work_on, args=(recipe, tmp_path))
        process.start()
        return process

    process = start()
    while process.is_alive() and not any(tmp_path.rglob("*")):
        time.sleep(0.01)
    process.join(random.Random(0).uniform(0.1, 1.5))
    process.kill()
    process.join()
    assert process.exitcode == -9
    two = [start(), start()]
    for process in two:
        process.join()
    assert [process.exitcode for process in two] == [0, 0]
    write_table(make_grid(bench), Ledger(tmp_path))
    assert table_of(tmp_path) == table_of(bench.output)
    assert weights_of(tmp_path) == weights_of(bench.output)


def test_a_finished_grid_is_not_run_again(bench):
    def refuse(node, folder, needs):
        raise AssertionError(f"{node.title} was run")

    run_here(Job(make_grid(bench).nodes, Ledger(bench.output), refuse))


def test_a_ledger_that_was_moved_goes_on_with_what_was_cut_off(recipe, bench, tmp_path):
    """Settings and records hold the paths that they were made with."""
    moved = tmp_path / "moved"
    shutil.copytree(bench.output, moved)
    ends = list(moved.glob("nodes/defend-*/done.json"))
    for end, finished in zip(ends, (True, False), strict=True):
        end.unlink()
        if not finished:
            (record,) = end.parent.glob("*/record.json")
            record.unlink()
    tiny_grid.work_on(recipe, moved)
    write_table(make_grid(bench), Ledger(moved))
    assert table_of(moved) == table_of(bench.output)
    assert weights_of(moved) == weights_of(bench.output)


def test_a_table_that_cannot_be_written_is_said(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    output = str(tmp_path / "file" / "bench")
    for command in ("show", "run"):
        words = ["bench", command, recipe, "--scale", "tiny", "--output", output]
        refused = CliRunner().invoke(app, words)
        assert refused.exit_code == 2, refused.output
        assert "cannot be a folder for results" in refused.output


def test_time_is_estimated_from_nodes_like_it(recipe, bench):
    ledger = Ledger(bench.output)
    estimate = Estimate(ledger.all_done())
    seeds = make_grid(BenchRun(recipe=recipe, scale="tiny", seeds=(1,)))
    half = make_grid(BenchRun(recipe=recipe, scale="tiny", seeds=(1,), limit=8))
    other = make_grid(BenchRun(recipe=recipe, scale="tiny", student=("smollm2-135m",)))
    made = {done.speed: done.seconds for done in ledger.all_done()}
    for node, less, unlike in zip(seeds.nodes, half.nodes, other.nodes, strict=True):
        assert estimate.of(node) == pytest.approx(made[node.speed])
        assert estimate.of(less) < estimate.of(node)
        assert estimate.of(unlike) is None


def test_a_node_computes_with_its_threads_and_gives_the_caller_s_back(monkeypatch, display):
    seen: list[int] = []
    monkeypatch.setattr(nodes, "run_teach", lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    node = Node("teach", {"threads": before + 1, "run": {}}, {})
    nodes.StageMaker(display)(node, Path(), {})
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_the_plan_and_the_table_are_shown(recipe, bench):
    words = [recipe, "--scale", "tiny", "--output", str(bench.output)]
    plan = CliRunner().invoke(app, ["bench", "plan", *words, "--seeds", "0", "--seeds", "1"])
    assert plan.exit_code == 0
    assert "6 rows need 8 nodes: 4 are done, 4 will run." in plan.output
    listed = CliRunner().invoke(app, ["bench", "plan", *words, "--json"])
    assert [node["done"] for node in json.loads(listed.stdout)["nodes"]] == [True] * 4
    shown = CliRunner().invoke(app, ["bench", "show", *words])
    assert shown.exit_code == 0
    said = json.loads(CliRunner().invoke(app, ["bench", "show", *words, "--json"]).stdout)
    table = json.loads((bench.output / "three-tiny" / "table.json").read_text())
    assert said["command"] == "bench" and said["tables"] == [table]
    assert str(next(bench.output.glob("nodes/*/w2s"))) in shown.output.replace("\n", "")
    page = (bench.output / "three-tiny" / "report.html").read_text()
    (folder,) = bench.output.glob("nodes/*/lora")
    assert f"../nodes/{folder.parent.name}/lora/record.json" in page
    assert "Three models (three tiny;" in page
    assert "not been run" not in shown.output


def test_a_recipe_must_be_named():
    refused = CliRunner().invoke(app, ["bench", "plan", "table99"])
    assert refused.exit_code == 2
    assert "There is no recipe 'table99'" in refused.output
