from __future__ import annotations

import json
from pathlib import Path

import pytest

from w2sdefense.config import DataConfig, TrainingConfig
from w2sdefense.errors import ConfigError
from w2sdefense.experiments.folders import STARTED, begin
from w2sdefense.run_config import PoisonRun


def test_a_run_is_begun_with_its_settings(tmp_path):
    run = PoisonRun(output=tmp_path, training=TrainingConfig(epochs=3))
    assert begin(tmp_path, run) is False
    assert json.loads((tmp_path / STARTED).read_text()) == run.model_dump(mode="json")


def older(run: PoisonRun, folder: Path) -> None:
    """What a release wrote that had no tasks and no prompts yet."""
    begin(folder, run)
    found = json.loads((folder / STARTED).read_text())
    del found["task"], found["generation"], found["data"]["target_column"]
    (folder / STARTED).write_text(json.dumps(found))


def test_a_setting_that_is_newer_than_the_run_had_its_default(tmp_path):
    run = PoisonRun(output=tmp_path, resume=True)
    older(run, tmp_path)
    assert begin(tmp_path, run) is False


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"task": "reasoning"}, "task"), ({"data": DataConfig(dataset="imdb")}, "data")],
)
def test_other_settings_are_still_refused(tmp_path, changes, name):
    run = PoisonRun(output=tmp_path, resume=True)
    older(run, tmp_path)
    with pytest.raises(ConfigError, match=rf"other settings \({name}\)"):
        begin(tmp_path, run.model_copy(update=changes))
