"""`w2s report`: which runs are found, what is made of them, what is said of broken ones."""

import csv
import shutil
from pathlib import Path

import pytest
from synthetic_runs import rates, save_collection, settings
from test_page import Page
from typer.testing import CliRunner

from w2sdefense.cli.app import app
from w2sdefense.commands import reporting
from w2sdefense.commands.reporting import find_folders, make_report, report_grid
from w2sdefense.errors import ConfigError, DataError
from w2sdefense.evaluation.record import load_record
from w2sdefense.report.grid import GridRow, GridTable


@pytest.fixture
def collection(save_run):
    return save_collection(save_run)


@pytest.fixture
def plain(save_run):
    """The usual three, without features: a map takes a second."""
    runs = [("poisoned", 0.99), ("lora", 0.98), ("w2s", 0.01)]
    return [save_run(name, fires, features=False) for name, fires in runs]


def shown(page: Path) -> Page:
    return Page(page.read_text(encoding="utf-8"))


def hrefs(page: Page, start: str) -> list[str]:
    return [a["href"] for tag, a in page.tags if tag == "a" and a["href"].startswith(start)]


def test_runs_are_found_below_a_folder_and_once(collection):
    found = find_folders([collection / "toy" / "lora-0", collection])
    assert found[0] == collection / "toy" / "lora-0"
    assert len(found) == len(set(found)) == 9


def test_a_folder_without_runs_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"holds no finished run: there is no record\.json in it"):
        find_folders([tmp_path])
    with pytest.raises(DataError, match="is not a folder"):
        make_report([tmp_path / "nowhere"])
    assert list(tmp_path.iterdir()) == []


def test_many_runs_are_a_table_with_a_link_from_every_number(collection):
    report = make_report([collection])
    assert report.page == collection / "report.html"
    page = shown(report.page)
    links = hrefs(page, "#run-")
    assert len(links) == 9 * 4 and set(links) == {f"#run-{place}" for place in range(9)}
    records = hrefs(page, "toy/") + hrefs(page, "other/")
    assert len(records) == 9
    for link in records:
        evaluation = load_record((collection / link).parent).evaluation
        assert f"{evaluation.asr.hits}/{evaluation.asr.total}" in page.text
    # Suspect models first; one table of both data sets.
    assert page.text.index("other/poisoned") < page.text.index("toy/poisoned")
    assert page.text.index("toy/poisoned") < page.text.index("toy/lora-0")
    assert {"scatter-0", "scatter-1", "sweep-0", "features-0", "features-1"} <= set(page.figures)
    assert "accuracy" not in page.figures


def test_verdicts_are_against_the_model_that_was_defended(save_run, collection):
    def save(name: str, asr: int, config: dict) -> Path:
        evaluation = rates(asr, 9, n=100)
        return save_run(f"v/{name}", 0, config=config, evaluation=evaluation, features=False)

    victim = save("poisoned", 99, settings("poisoned"))
    save("w2s", 9, settings("w2s", victim=victim))
    save("alone", 9, settings("w2s", victim="gone"))
    rows = shown(make_report([victim.parent]).page).text
    table = rows[rows.index("Results") : rows.index("CA: accuracy")]
    assert "removed" in table
    assert "no backdoor seen" in table, "nothing is known of the model that it was made from"


def test_moved_runs_are_joined_to_their_victims_again(collection, tmp_path):
    there = shown(make_report([collection]).page).text
    moved = tmp_path / "moved"
    shutil.move(collection, moved)
    (moved / "report.html").unlink()
    assert shown(make_report([moved]).page).text == there
    assert "student smollm" in there and "backdoor alive" in there


def test_a_suspect_and_its_cleaned_model_are_shown_as_before_and_after(plain, tmp_path):
    report = make_report(plain, title="Mine")
    assert report.page == tmp_path / "report.html"
    page = shown(report.page)
    assert "The backdoor is removed" in page.text
    assert {"accuracy", "backdoor"} <= set(page.figures)


def test_cleaned_models_without_their_suspect_are_shown_as_a_table(plain, tmp_path):
    make_report(plain[1:], tmp_path / "page.html")
    assert "2 runs" in shown(tmp_path / "page.html").text


@pytest.mark.parametrize("broken", ["record.json", "samples.parquet"])
def test_a_broken_run_that_was_found_is_named_and_left_out(collection, broken):
    (collection / "toy" / "w2s-1" / broken).write_text("{")
    report = make_report([collection])
    (problem,) = report.problems
    assert "w2s-1" in problem
    page = shown(report.page).text
    assert "8 runs" in page and "Left out:" in page and "w2s-1" in page


def test_a_broken_run_that_was_named_is_an_error(collection):
    (collection / "toy" / "w2s-1" / "record.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a record"):
        make_report([collection / "toy" / "w2s-1", collection / "toy" / "lora-0"])


def test_broken_features_cost_the_map_only(collection):
    (collection / "toy" / "poisoned" / "features.safetensors").write_bytes(b"x")
    page = shown(make_report([collection]).page)
    assert "Without a map: " in page.text and "features.safetensors" in page.text
    assert "features-0" in page.figures and "features-1" not in page.figures


def test_feature_maps_left_out_are_counted(collection, monkeypatch):
    monkeypatch.setattr(reporting, "MAX_MAPS", 1)
    page = shown(make_report([collection]).page)
    assert "Feature maps are drawn for the first 1 of 2 runs." in page.text
    assert "features-1" not in page.figures


def test_nodes_of_a_ledger_are_called_by_their_settings(save_run):
    folder = save_run("bench/nodes/abc/lora", 0.9, config=settings("lora"), features=False)
    (folder.parent / "node.json").write_text('{"title": "defend lora toy rank 8"}')
    save_run("bench/nodes/def/w2s", 0.1, config=settings("w2s"), features=False)
    report = make_report([folder.parents[2]])
    text = shown(report.page).text
    assert "defend lora toy rank 8" in text and "def/w2s" in text


def test_the_page_of_a_grid_has_its_table(save_run, tmp_path):
    folder = save_run("nodes/abc/lora", 0.9, config=settings("lora"), features=False)
    evaluation = load_record(folder).evaluation
    rows = [
        GridRow({"method": "lora", "rank": 8}, evaluation, {"ca": 95.5}, folder),
        GridRow({"method": "w2s", "rank": 8}, None, {}),
    ]
    table = GridTable("mine small", "A title", rows, ["A note."])
    assert report_grid(table, tmp_path / "out" / "page.html") == ()
    page = shown(tmp_path / "out" / "page.html")
    assert "A title (mine small; rank 8)" in page.text and "A note." in page.text
    assert "95.50" in page.text, "the paper's number"
    assert hrefs(page, "../nodes/abc/lora/record.json")
    assert len(hrefs(page, "#run-0")) == 5, "all cells of the row that was run, and no others"


def test_exports_lie_beside_the_page(collection, tmp_path):
    page = tmp_path / "out" / "page.html"
    exports = ("latex", "csv", "markdown")
    result = CliRunner().invoke(
        app,
        ["report", str(collection), "--output", str(page)]
        + [word for form in exports for word in ("--export", form)],
    )
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in page.parent.iterdir())
    assert names == ["page.csv", "page.html", "page.md", "page.tex"]
    assert r"\toprule" in page.with_suffix(".tex").read_text()
    assert "| toy/lora-0 | " in page.with_suffix(".md").read_text()
    with page.with_suffix(".csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    found = load_record(collection / "toy" / "lora-0").evaluation
    assert float(rows["toy/lora-0"]["asr"]) == found.asr.value
    assert float(rows["toy/lora-0"]["asr_high"]) == found.asr.interval[1]
    assert rows["toy/w2s-2"]["rank"] == "2" and rows["toy/poisoned"]["rank"] == ""


def test_a_page_where_a_folder_is_is_refused_first(tmp_path):
    with pytest.raises(ConfigError, match="is a folder") as caught:
        make_report([tmp_path / "nowhere"], tmp_path)
    assert caught.value.fix == f"Name a file: {tmp_path / 'report.html'}"


def test_a_page_that_cannot_be_written_is_refused(collection, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be a folder for results"):
        make_report([collection], tmp_path / "file" / "report.html")
