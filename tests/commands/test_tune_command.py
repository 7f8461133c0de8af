"""`w2s tune`, on a tiny model with a backdoor: from the command to `w2s defend`."""

import json
import shlex
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from pydantic import ValidationError
from typer.testing import CliRunner

from architectures import make
from tiny import SMALL_SCAN, save_reviews
from w2sdefense.cli.app import app
from w2sdefense.commands import tune
from w2sdefense.commands.runs import TuneRun
from w2sdefense.config import DataConfig, SignalConfig, StudentConfig, TuneConfig
from w2sdefense.data import load_dataset
from w2sdefense.data.types import labels_of, texts_of
from w2sdefense.errors import ConfigError, W2SError
from w2sdefense.evaluation.metrics import accuracy
from w2sdefense.evaluation.record import load_record
from w2sdefense.victim import load_victim

pytestmark = pytest.mark.slow

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def place(tmp_path_factory, poisoned) -> Path:
    folder = tmp_path_factory.mktemp("tune")
    save_reviews(folder / "reviews", train=160, validation=40, test=8)
    (folder / "poisoned").symlink_to(poisoned)
    return folder


@pytest.fixture(scope="module")
def settings(place, tiny_bert):
    """Settings of a short search."""
    return {
        "student": {"model": str(place / "poisoned"), "max_length": 32},
        "data": {"dataset": str(place / "reviews")},
        "teacher": {"model": str(tiny_bert), "epochs": 2, "learning_rate": 1e-3},
        "teacher_folder": str(place / "teacher"),
        "scan": SMALL_SCAN | {"kept": 3},
        "adapter": {"lora_r": 4},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3},
        "tune": {"trials": 2},
        "signal": {"pieces": 3, "texts": 6},
    }


@pytest.fixture(scope="module")
def tuned(place, settings):
    (place / "tune.yaml").write_text(yaml.safe_dump(settings))
    return w2s("tune", "--config", place / "tune.yaml", "--output", place / "tuned")


def w2s(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_chooses_and_says_how_to_go_on(place, tuned):
    assert tuned.exit_code == 0, tuned.output
    found = json.loads((place / "tuned" / "tuned.json").read_text())
    assert [trial["number"] for trial in found["trials"]] == [0, 1]
    assert found["chosen"] in (0, 1)
    chosen = found["trials"][found["chosen"]]
    assert found["settings"] == chosen["settings"]
    assert chosen["accuracy"]["total"] == 40
    assert chosen["exposure"]["total"] == 2 * 3 * 6
    assert len(found["signal"]["candidates"]) == 6
    assert found["why"] in tuned.output
    assert found["command"] in tuned.output
    assert "Trial 0 (" in tuned.output
    assert not list((place / "tuned" / "trial").glob("training/checkpoint-*"))


def test_no_trigger_is_known_to_it():
    flags = w2s("tune", "--help").output
    assert "--tune-alpha" in flags
    assert "--trigger" not in flags
    assert "--target " not in flags


def test_defend_reads_what_was_chosen_and_gets_the_same_student(place, tuned):
    found = json.loads((place / "tuned" / "tuned.json").read_text())
    program, *arguments = shlex.split(found["command"])
    assert program == "w2s"
    result = w2s(*arguments, "--output", place / "defended")
    assert result.exit_code == 0, result.output
    record = load_record(place / "defended")
    chosen = found["trials"][found["chosen"]]
    student = load_victim(
        StudentConfig(model=str(place / "defended"), base=str(place / "poisoned"), max_length=32)
    )
    validation = load_dataset(DataConfig(dataset=str(place / "reviews"))).validation
    answers = [answer.answer for answer in student.predict(texts_of(validation))]
    assert accuracy(answers, labels_of(validation)).model_dump() == chosen["accuracy"]
    for name in ("alpha", "beta", "gamma"):
        assert record.config["distill"][name] == chosen["settings"][name]
    assert record.config["adapter"]["lora_r"] == 4


def test_the_same_command_trains_nothing_twice(place, tuned):
    before = (place / "tuned" / "study.log").read_bytes()
    again = w2s("tune", "--config", place / "tune.yaml", "--output", place / "tuned", "--json")
    assert again.exit_code == 0, again.output
    said = json.loads(again.stdout)
    assert (said["schema"], said["command"]) == ("w2sdefense.result/1", "tune")
    assert said["tuned"] == json.loads((place / "tuned" / "tuned.json").read_text())
    assert (place / "tuned" / "study.log").read_bytes() == before
    assert "Trial 0 (" not in again.output


def test_a_training_that_is_interrupted_goes_on(place, settings, display, monkeypatch):
    run = TuneRun.model_validate({**settings, "output": place / "interrupted"})
    real, begun = tune.exposure, []

    def interrupted(*given):
        begun.append(None)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(tune, "exposure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune.run_tune(run, display)
    assert not (run.output / "tuned.json").exists()
    outcome = tune.run_tune(run, display)
    whole = json.loads((place / "tuned" / "tuned.json").read_text())
    for trial, other in zip(outcome.trials, whole["trials"], strict=True):
        assert trial.values == other["settings"]
        assert trial.measured.accuracy.model_dump() == other["accuracy"]
        assert trial.measured.exposure.model_dump() == other["exposure"]


def test_other_settings_are_refused_and_more_trials_are_not(place, settings, tuned, display):
    run = TuneRun.model_validate({**settings, "output": place / "tuned"})
    other = run.model_copy(update={"signal": SignalConfig(texts=5)})
    with pytest.raises(ConfigError, match=r"other settings \(signal\)"):
        tune.run_tune(other, display)
    more = run.model_copy(update={"tune": TuneConfig(trials=3)})
    assert len(tune.run_tune(more, display).trials) == 3


def test_the_folder_of_another_command_is_refused(place, settings, display):
    run = TuneRun.model_validate({**settings, "output": place / "other"})
    run.output.mkdir()
    (run.output / "settings.json").write_text('{"task": "classification"}')
    with pytest.raises(ConfigError, match="holds a run with other settings"):
        tune.run_tune(run, display)


def test_a_folder_that_another_process_works_in_is_refused(place, settings, display):
    run = TuneRun.model_validate({**settings, "output": place / "taken"})
    run.output.mkdir()
    with FileLock(run.output / ".lock"):
        with pytest.raises(ConfigError, match="Another command works in"):
            tune.run_tune(run, display)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"training": {"report_to": "nothing"}}, "tracker 'nothing' is not installed"),
        ({"student": {"dtype": "float16"}}, "cannot be done in float16"),
        ({"student": {"model": "tokens", "base": "poisoned"}}, "cannot be merged"),
        ({"output": "poisoned"}, "is the model itself"),
    ],
)
def test_what_defend_would_refuse_is_refused_before_a_teacher_is_fitted(
    place, settings, display, monkeypatch, change, problem
):
    make("llama", adapter="prompt-tuning")[0].save_pretrained(place / "tokens")
    monkeypatch.chdir(place)
    own = {"output": "refused", "teacher_folder": "refused/teacher"}
    change = {name: both(settings.get(name), value) for name, value in change.items()}
    before = sorted(place.rglob("*"))
    with pytest.raises(W2SError, match=problem):
        tune.run_tune(TuneRun.model_validate({**settings, **own, **change}), display)
    assert sorted(place.rglob("*")) == before


def both(settings, change):
    return {**settings, **change} if isinstance(change, dict) else change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"tune": {"lora_r": [4]}, "adapter": {"adapter": "p-tuning"}}, "has no rank"),
        ({"tune": {"alpha": "1", "beta": "1", "gamma": "1"}}, "nothing to search"),
        ({"tune": {"temperature": "0"}}, "above 0"),
        ({"tune": {"beta": "5:1"}}, "must have 0 <= LOW <= HIGH"),
    ],
)
def test_settings_that_do_not_fit(change, problem):
    with pytest.raises(ValidationError, match=problem):
        TuneRun.model_validate(change)
