"""The Python of the README runs as it stands, but for the names of models, data and folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tiny import save_bert, save_llama, save_reviews
from w2sdefense.cli.display import Display
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun
from w2sdefense.config import DataConfig, StudentConfig, load_settings
from w2sdefense.data import load_dataset
from w2sdefense.victim import load_victim

pytestmark = pytest.mark.slow

README = Path(__file__).parents[1] / "README.md"


def test_the_run_file_of_the_readme_is_one():
    (block,) = re.findall(r"\n\n((?:    \w+: .*\n)+)", README.read_text(encoding="utf-8"))
    run = load_settings(DefendRun, yaml.safe_load(block), "README.md")
    assert run.data.text_column == "review"
    again = DefendRun.model_validate(run.model_dump(mode="json"))
    assert again == run, "what a run leaves as its settings can be read again"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reviews = save_reviews(tmp_path / "reviews", train=32, validation=8, test=12)
    settings = {
        "student": {"model": str(save_llama(tmp_path / "llama")), "max_length": 24},
        "data": {"dataset": str(reviews)},
        "training": {"epochs": 1},
        "output": "runs/demo/poisoned",
    }
    with Display() as display:
        run_poison(load_settings(PoisonRun, settings, "test"), display)
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line and "import" not in line]) <= 12
    teacher = save_bert(tmp_path / "bert")
    lines = code[1].replace('dataset="rotten-tomatoes"', f"dataset={str(reviews)!r}")
    lines = lines.replace("TeacherConfig()", f"TeacherConfig(model={str(teacher)!r}, epochs=1)")
    small = "training=TrainingConfig(epochs=1), scan=ScanTrainingConfig(kinds=('words',), rounds=1)"
    lines = lines.replace("W2SDefense()", f"W2SDefense({small})")
    imports = "from w2sdefense.config import ScanTrainingConfig, TrainingConfig\n"
    exec(imports + lines, {})
    assert re.search(r"\(\d+/12\).*\(\d+/6\).*\(\d+/6\)", capsys.readouterr().out)
    data = load_dataset(DataConfig(dataset=str(reviews)))
    config = StudentConfig(model="runs/cleaned", base="runs/demo/poisoned")
    assert load_victim(config, data.label_names).label_names == ("negative", "positive")
