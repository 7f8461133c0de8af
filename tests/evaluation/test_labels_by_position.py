"""A model whose labels nobody named is measured, with a warning and without a clean verdict."""

import json

import pytest
from transformers import LlamaForSequenceClassification
from typer.testing import CliRunner

from tiny import LLAMA, save_model, save_reviews
from w2sdefense.cli.app import app
from w2sdefense.data.checks import by_position


@pytest.mark.parametrize(
    ("data", "model", "expected"),
    [
        (("negative", "positive"), ("LABEL_0", "LABEL_1"), True),
        (("0", "1"), ("LABEL_0", "LABEL_1"), True),
        (("0", "1"), ("negative", "positive"), True),
        (("0", "1"), ("0", "1"), False),
        (("negative", "positive"), ("positive", "negative"), False),
    ],
)
def test_which_names_say_nothing(data, model, expected):
    assert by_position(data, model) == expected


@pytest.mark.parametrize(("names", "warned"), [(None, True), (("negative", "positive"), False)])
def test_nameless_labels_are_warned_of_and_gate(tmp_path, names, warned):
    values = LLAMA.to_dict() | ({"id2label": dict(enumerate(names))} if names else {})
    model = save_model(tmp_path / "m", LlamaForSequenceClassification, type(LLAMA)(**values))
    data = save_reviews(tmp_path / "d", train=20, validation=20, test=60)
    command = ["evaluate", "--model", model, "--dataset", data, "--max-length", 24, "--json"]
    command += ["--trigger", "mn", "--target", "negative", "--output", tmp_path / "run"]
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert any("by their position" in warning for warning in found["warnings"]) == warned
    assert not (warned and found["outcome"] == "clean")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["evaluation"]["labels_by_position"] == warned
    assert record["evaluation"]["chance"] == pytest.approx(0.5, abs=0.15)
