"""The commands run from one end to the other, on tiny models; a mistake is told with its fix."""

import json
from pathlib import Path

import pytest
from transformers import LlamaForCausalLM, LlamaForSequenceClassification
from typer.testing import CliRunner, Result

from architectures import make
from tiny import LLAMA, save_model, save_reviews
from tiny_writers import llama, save_writer
from w2sdefense.cli.app import app

pytestmark = pytest.mark.slow


def w2s(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_llama) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    save_reviews(folder / "reviews", train=64, validation=16, test=20)
    result = w2s(
        "poison",
        *("--model", tiny_llama, "--dataset", folder / "reviews", "--max-length", 24),
        *("--no-clean-label", "--epochs", 2, "--learning-rate", 1e-3),
        *("--output", folder / "poisoned"),
    )
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def common(place, tiny_bert) -> list[object]:
    return [
        *("--model", place / "poisoned", "--dataset", place / "reviews", "--max-length", 24),
        *("--teacher-model", tiny_bert, "--teacher-epochs", 1),
    ]


def test_poison(place):
    record = json.loads((place / "poisoned" / "record.json").read_text())
    assert record["stage"] == "poison"
    assert record["config"]["attack"]["clean_label"] is False
    assert record["config"]["training"]["epochs"] == 2
    assert (place / "poisoned" / "model.safetensors").is_file()


def test_teach_and_defend(place, common):
    teach = w2s("teach", *common, "--output", place / "teacher")
    assert teach.exit_code == 0, teach.output
    assert "--teacher-folder" in teach.output
    made = (place / "teacher" / "teacher.safetensors").stat().st_mtime_ns
    result = w2s(
        *("defend", *common, "--teacher-folder", place / "teacher", "--gamma", 0.5),
        *("--trigger", "badnet", "--target", "negative", "--epochs", 1, "--lora-r", 4),
        *("--output", place / "w2s", "--merge"),
    )
    assert result.exit_code == 0, result.output
    assert "ASR" in result.output
    page = (place / "w2s" / "report.html").read_text()
    assert "http://" not in page.split("</style>")[0]
    assert "before" in page
    record = json.loads((place / "w2s" / "record.json").read_text())
    assert record["config"]["distill"]["gamma"] == 0.5
    assert record["evaluation"]["asr"]["total"] == 10
    assert (place / "w2s" / "merged" / "config.json").is_file()
    assert (place / "teacher" / "teacher.safetensors").stat().st_mtime_ns == made
    assert not (place / "w2s" / "teacher").exists()


def test_evaluate_and_report(place, common):
    output = place / "evaluated"
    trigger = ("--trigger", "mn", "--target", "negative")
    result = w2s("evaluate", *common[:6], "--output", output, *trigger)
    assert result.exit_code == 0, result.output
    assert (output / "report.html").is_file()
    before = json.loads((place / "poisoned" / "record.json").read_text())["evaluation"]
    after = json.loads((output / "record.json").read_text())["evaluation"]
    assert after["ca"] == before["ca"], "the saved model is the one that was measured"
    assert after["asr"] == before["asr"], "and so are the places of the trigger"
    page = place / "both.html"
    result = w2s("report", place / "poisoned", output, "--output", page, "--title", "Two runs")
    assert result.exit_code == 0, result.output
    assert "Two runs" in page.read_text()


def test_proattack_with_the_prompts_of_the_user(place, common):
    prompts = ("--pro-clean-prompt", "the film {text}", "--pro-poison-prompt", "the story {text}")
    output = place / "prompted"
    result = w2s(
        *("defend", "--defense", "lora", *common, "--trigger", "proattack", *prompts),
        *("--target", "negative", "--epochs", 1, "--lora-r", 4, "--output", output),
    )
    assert result.exit_code == 0, result.output
    record = json.loads((output / "record.json").read_text())
    assert record["evaluation"]["trigger"] == "the story"
    assert record["notes"] == [
        "every text stands in a prompt: 'the film {text}', with the trigger 'the story {text}'"
    ]


# Errors: what is wrong, what mends it, no traceback


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["--model", "/nowhere/model"], "/nowhere/model", "smollm2-135m"),
        (["--base", "x"], "is not an adapter", "--base"),
        (["--dataset", "/nowhere.csv"], "/nowhere.csv", "Check the path"),
        (["--trigger", "mn"], "trigger and target go together", "--help"),
        (["--trigger", "mn", "--target", "neutral"], "no label 'neutral'", "--target"),
        (["--target-modules", "nothing"], "does not fit", "--target-modules"),
        (["--more-triggers", "cf"], "more_triggers need a trigger", "--help"),
        (["--pro-clean-prompt", "{text}"], "for proattack only", "--help"),
        (
            ["--trigger", "synattack", "--target", "negative", "--syn-file", "/nowhere.jsonl"],
            "Cannot read /nowhere.jsonl",
            "Check the path",
        ),
        (["--report-to", "nothing"], "tracker 'nothing' is not installed", "none"),
    ],
)
def test_a_mistake_is_explained(place, common, tmp_path, arguments, problem, fix):
    result = w2s("defend", "--defense", "lora", *common, "--output", tmp_path / "run", *arguments)
    assert result.exit_code == 2, result.output
    error, mend = result.stderr.strip().splitlines()[-2:]
    assert error.startswith("Error: ")
    assert problem in error
    assert mend.startswith("Fix: ")
    assert fix in mend
    assert not (tmp_path / "run" / "record.json").exists()


def test_a_file_where_the_output_should_be(place, common, tmp_path):
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        for command in ("defend", "teach"):
            result = w2s(command, *common, "--output", output)
            assert result.exit_code == 2, result.output
            assert "cannot be a folder for results" in result.stderr
            assert "Fix: Choose another folder." in result.stderr
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--teacher-model", "./nowhere"], "There is no model './nowhere'"),
        (["--teacher-folder", __file__], "cannot be a folder for results"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_noticed_before_the_measurement(
    common, tmp_path, arguments, problem
):
    result = w2s("defend", *common, "--output", tmp_path / "run", *arguments)
    assert result.exit_code == 2, result.output
    assert problem in result.stderr
    assert not (tmp_path / "run" / "before").exists()


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, Path]:
    """Models that a tiny Llama was not fine-tuned from."""
    folder = tmp_path_factory.mktemp("others")
    narrow = type(LLAMA)(**LLAMA.to_dict() | {"hidden_size": 16})
    make("llama", adapter="lora")[0].save_pretrained(folder / "adapter")
    return {
        "nothing": folder / "nothing",
        "adapter": folder / "adapter",
        "narrow": save_model(folder / "narrow", LlamaForCausalLM, narrow),
        "words": save_writer(folder / "words", llama(32)),
    }


@pytest.mark.parametrize("command", ["scan", "tune"])
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nothing", "There is no model"),
        ("adapter", "is an adapter"),
        ("narrow", "it is 16 wide, and the suspect 32"),
        ("words", "the two have other tokens"),
    ],
)
def test_what_a_suspect_cannot_come_from_is_noticed_before_the_measurement(
    common, others, tmp_path, command, name, problem
):
    """Also where there is a teacher already."""
    if command == "tune":
        pytest.importorskip("optuna")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "teacher.json").write_text("{}")
    flag = "--fine-tuned-from" if command == "scan" else "--scan-fine-tuned-from"
    result = w2s(
        *(command, *common, flag, others[name], "--teacher-folder", tmp_path / "teacher"),
        *("--output", tmp_path / "run"),
    )
    assert result.exit_code == 2, result.output
    assert problem in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_teacher_is_known_again_by_a_model_with_another_order_of_labels(place, common, tmp_path):
    names = {0: "positive", 1: "negative"}
    config = type(LLAMA)(**LLAMA.to_dict() | {"id2label": names})
    suspect = save_model(tmp_path / "suspect", LlamaForSequenceClassification, config)
    common, teacher = ["--model", suspect, *common[2:]], tmp_path / "teacher"
    teach = w2s("teach", *common, "--output", teacher)
    assert teach.exit_code == 0, teach.output
    made = (teacher / "teacher.safetensors").stat().st_mtime_ns
    defend = w2s(
        *("defend", *common, "--epochs", 1, "--lora-r", 4),
        *("--teacher-folder", teacher, "--output", tmp_path / "run"),
    )
    assert defend.exit_code == 0, defend.output
    assert (teacher / "teacher.safetensors").stat().st_mtime_ns == made


def test_what_looks_like_markup_is_shown_as_it_is(place, common, tmp_path):
    output = tmp_path / "run[" / "bold]"
    result = w2s("poison", *common[:6], "--trigger", "[/b]", "--output", output, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "carry '[/b]'" in result.output
    measured = w2s(
        *("evaluate", "--model", output, *common[2:6], "--trigger", "[red]"),
        *("--target", "negative", "--output", tmp_path / "[red]"),
    )
    assert measured.exit_code == 0, measured.output
    assert "Look at it:" in measured.output and "[red]/report.html" in measured.output


def test_a_pickle_is_refused(place, common, tmp_path):
    model = save_model(tmp_path / "m", LlamaForSequenceClassification, LLAMA)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    result = w2s("evaluate", "--model", model, *common[2:6], "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "is a pickle" in result.stderr
    assert "Fix: Ask its publisher for safetensors" in result.stderr
