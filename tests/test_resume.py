"""A run that is killed goes on as if nothing had happened: the weights are the same to the bit.

Dropout is on, and the run is killed within its second epoch: neither the order of the rows nor the
random numbers may start anew.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from transformers import LlamaForSequenceClassification

import forked
from tiny import LLAMA, defend_settings, save_model, save_reviews
from w2sdefense.commands.defend import run_defend
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun
from w2sdefense.evaluation.record import load_record, load_samples
from w2sdefense.training.fit import last_whole_checkpoint

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = 50
SAVE_STEPS = 5


def killed(command: str, settings: dict, folder: Path) -> int:
    """Run a command in a process of its own and kill it within the second epoch.

    Returns:
        The step of the newest whole checkpoint that it left.
    """
    config = folder / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    training = Path(settings["output"]) / "training"
    process = forked.start((command, "--config", str(config)), folder / "log.txt")
    end = time.monotonic() + 300
    while process.is_alive() and time.monotonic() < end:
        checkpoint = last_whole_checkpoint(training)
        if checkpoint and step_of(checkpoint) > STEPS_PER_EPOCH:
            process.kill()
            break
        time.sleep(0.002)
    process.join()
    assert process.exitcode == -signal.SIGKILL, (folder / "log.txt").read_text()[-2000:]
    step = step_of(last_whole_checkpoint(training))
    assert STEPS_PER_EPOCH < step < 2 * STEPS_PER_EPOCH, "killed in the middle of an epoch"
    assert not (Path(settings["output"]) / "record.json").exists()
    return step


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("d") / "reviews"
    return save_reviews(folder, train=8 * STEPS_PER_EPOCH, validation=16, test=20)


def same_weights(one: Path, other: Path, name: str) -> bool:
    a, b = load_file(one / name), load_file(other / name)
    assert a.keys() == b.keys()
    return all((a[key] == b[key]).all() for key in a)


def test_a_killed_defense_goes_on(tmp_path, reviews, tiny_bert, display):
    model = save_model(tmp_path / "model", LlamaForSequenceClassification, LLAMA)
    settings = defend_settings(model, reviews, tiny_bert, tmp_path / "whole")
    settings["teacher_folder"] = str(tmp_path / "teacher")
    assert settings["training"]["save_steps"] == SAVE_STEPS
    assert settings["adapter"]["lora_dropout"] > 0
    run_defend(DefendRun.model_validate(settings), display)

    cut = settings | {"output": str(tmp_path / "cut")}
    step = killed("defend", cut, tmp_path)
    # What a kill in the middle of a save leaves: newer, and not to be gone on from.
    half = tmp_path / "cut" / "training" / "checkpoint-99995"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")

    steps: list[int] = []
    display.steps = lambda phase: lambda step, *_: steps.append(step)
    run_defend(DefendRun.model_validate(cut | {"resume": True}), display)
    assert steps[0] == step + 1, "goes on, and does not start anew"
    assert same_weights(tmp_path / "whole", tmp_path / "cut", "adapter_model.safetensors")
    assert load_samples(tmp_path / "whole") == load_samples(tmp_path / "cut")
    whole, resumed = load_record(tmp_path / "whole"), load_record(tmp_path / "cut")
    # A logged mean starts anew with the process, so the first one after the kill is of fewer steps.
    after = next(p.step for p in whole.history if p.step > step and "fa" in p.losses)
    logged = [
        [(p.step, p.losses["fa"]) for p in run.history if "fa" in p.losses and p.step != after]
        for run in (whole, resumed)
    ]
    assert logged[0] == logged[1]
    assert len(logged[0]) > 1
    assert not list((tmp_path / "cut").rglob("checkpoint-*"))


def test_a_killed_poisoning_goes_on(tmp_path, reviews, tiny_llama, display):
    settings = {
        "student": {"model": str(tiny_llama), "max_length": 24},
        "data": {"dataset": str(reviews)},
        "attack": {"clean_label": False},
        "training": {
            "epochs": 3,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "save_steps": SAVE_STEPS,
        },
        "output": str(tmp_path / "whole"),
    }
    run_poison(PoisonRun.model_validate(settings), display)
    cut = settings | {"output": str(tmp_path / "cut")}
    step = killed("poison", cut, tmp_path)
    steps: list[int] = []
    display.steps = lambda phase: lambda step, *_: steps.append(step)
    run_poison(PoisonRun.model_validate(cut | {"resume": True}), display)
    assert steps[0] == step + 1
    assert same_weights(tmp_path / "whole", tmp_path / "cut", "model.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
@pytest.mark.parametrize("defense", ["w2s", "merge"])
def test_a_run_killed_while_it_measures_is_not_trained_again(
    tmp_path, reviews, tiny_bert, tiny_llama, display, monkeypatch, defense
):
    model = save_model(tmp_path / "model", LlamaForSequenceClassification, LLAMA)
    settings = defend_settings(model, reviews, tiny_bert, tmp_path / "run")
    settings["training"] = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    settings |= {"defense": defense, "merging": {"base": str(tiny_llama)}}

    class Killed(BaseException):
        pass

    def texts(phase, total):
        if phase == "evaluate run":
            raise Killed
        return lambda more: None

    monkeypatch.setattr(display, "texts", texts)
    with pytest.raises(Killed):
        run_defend(DefendRun.model_validate(settings), display)
    monkeypatch.undo()
    steps: list[tuple[str, int]] = []
    display.steps = lambda phase: lambda step, *_: steps.append((phase, step))
    run_defend(DefendRun.model_validate(settings | {"resume": True}), display)
    assert steps == []
    assert load_record(tmp_path / "run").evaluation.ca.total == 20
    assert not list((tmp_path / "run").rglob("checkpoint-*"))
