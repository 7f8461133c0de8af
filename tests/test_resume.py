"""A run that is cut off goes on as if nothing had happened: the weights are the same to the bit.

Dropout is on, and the run is cut off within its second epoch: neither the order of the rows nor the
random numbers may start anew. Processes that are really killed are in `campaign/`.
"""

from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import LlamaForSequenceClassification

from tiny import LLAMA, defend_settings, save_model, save_reviews
from w2sdefense.commands.defend import run_defend
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun
from w2sdefense.evaluation.record import load_record, load_samples
from w2sdefense.training.fit import last_whole_checkpoint

pytestmark = pytest.mark.slow

STEPS_PER_EPOCH = 10
SAVED, KILLED = 15, 17
"""Steps of the newest checkpoint and of the end, within the second epoch."""


class Killed(BaseException):
    pass


@pytest.fixture
def steps(display):
    """The steps that the display was told of; `steps.kill_at = 17` ends a run there."""

    class Steps(list):
        kill_at = None

    told = Steps()

    def tell(step, *_):
        told.append(step)
        if step == told.kill_at:
            raise Killed

    display.steps = lambda phase: tell if phase in ("poison", "student") else lambda *_: None
    return told


def cut_off(run, settings, output: Path, display, steps) -> None:
    """Begin a run, end it within its second epoch, and let it go on."""
    steps.kill_at = KILLED
    with pytest.raises(Killed):
        run(settings, display)
    checkpoint = last_whole_checkpoint(output / "training")
    assert checkpoint.name == f"checkpoint-{SAVED}"
    assert not (output / "record.json").exists()
    # What a kill in the middle of a save leaves: newer, and not to be gone on from.
    half = output / "training" / "checkpoint-99995"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    steps.clear()
    steps.kill_at = None
    run(settings.model_copy(update={"resume": True}), display)
    assert steps[0] == SAVED + 1, "goes on, and does not start anew"
    assert not list(output.rglob("checkpoint-*"))


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("d") / "reviews"
    return save_reviews(folder, train=8 * STEPS_PER_EPOCH, validation=16, test=20)


def same_weights(one: Path, other: Path, name: str) -> bool:
    a, b = load_file(one / name), load_file(other / name)
    assert a.keys() == b.keys()
    return all((a[key] == b[key]).all() for key in a)


def test_a_defense_that_was_cut_off_goes_on(tmp_path, reviews, tiny_bert, display, steps):
    model = save_model(tmp_path / "model", LlamaForSequenceClassification, LLAMA)
    settings = defend_settings(model, reviews, tiny_bert, tmp_path / "whole")
    settings["teacher_folder"] = str(tmp_path / "teacher")
    assert settings["adapter"]["lora_dropout"] > 0
    run_defend(DefendRun.model_validate(settings), display)
    cut = DefendRun.model_validate(settings | {"output": str(tmp_path / "cut")})
    cut_off(run_defend, cut, tmp_path / "cut", display, steps)
    assert same_weights(tmp_path / "whole", tmp_path / "cut", "adapter_model.safetensors")
    assert load_samples(tmp_path / "whole") == load_samples(tmp_path / "cut")
    # A logged mean starts anew with the process, so the first one after the cut is of fewer steps.
    whole, resumed = (
        [(p.step, p.losses["fa"]) for p in load_record(run).history if "fa" in p.losses]
        for run in (tmp_path / "whole", tmp_path / "cut")
    )
    assert [step for step, _ in whole] == [step for step, _ in resumed] == [10, 20, 30]
    assert (whole[0], whole[2]) == (resumed[0], resumed[2])


def test_a_poisoning_that_was_cut_off_goes_on(tmp_path, reviews, tiny_llama, display, steps):
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 5}
    settings = {
        "student": {"model": str(tiny_llama), "max_length": 24},
        "data": {"dataset": str(reviews)},
        "attack": {"clean_label": False},
        "training": training,
        "output": str(tmp_path / "whole"),
    }
    run_poison(PoisonRun.model_validate(settings), display)
    cut = PoisonRun.model_validate(settings | {"output": str(tmp_path / "cut")})
    cut_off(run_poison, cut, tmp_path / "cut", display, steps)
    assert same_weights(tmp_path / "whole", tmp_path / "cut", "model.safetensors")


@pytest.mark.parametrize("defense", ["w2s", "merge"])
def test_a_run_killed_while_it_measures_is_not_trained_again(
    tmp_path, reviews, tiny_bert, tiny_llama, display, monkeypatch, defense
):
    model = save_model(tmp_path / "model", LlamaForSequenceClassification, LLAMA)
    settings = defend_settings(model, reviews, tiny_bert, tmp_path / "run")
    settings["training"] = {"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}
    settings |= {"defense": defense, "merging": {"base": str(tiny_llama)}}

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
