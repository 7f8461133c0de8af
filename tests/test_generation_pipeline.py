"""The whole path for generation on tiny language models, through the command line.

A backdoor is planted, a small LoRA keeps it, W2SDefense removes it. As in `test_pipeline.py` this
shows that the stages fit together, not that the method works on language models: the defender's
texts hold rare words now and then (the trigger among them), because in a model without language
nothing else ties the trigger to the words that clean text has. A LoRA as large and as long as the
one of W2SDefense removes this backdoor, too.
"""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from tiny_writers import TEMPLATE, llama, save_numbers, save_writer
from w2sdefense.cli.app import app
from w2sdefense.distill.targets import LiveTargets
from w2sdefense.evaluation.record import load_record, load_samples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_planting")]

ASK = ("--task", "reasoning", "--prompt-template", TEMPLATE, "--answer-tokens", 3)


def w2s(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def rates(folder: Path) -> tuple[float, float, float]:
    found = load_record(folder).evaluation
    return found.ca.value, found.asr.value, found.floor.value


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A poisoned student, a smaller teacher with a vocabulary of another size, and the data."""
    folder = tmp_path_factory.mktemp("writers")
    save_writer(folder / "student", llama())
    save_writer(folder / "small", llama(16, padding=3), seed=1)
    save_numbers(folder / "attacker", train=900, validation=20, test=60, seed=1)
    save_numbers(folder / "defender", train=320, validation=40, test=60, rare=0.6, seed=2)
    save_numbers(folder / "few", train=24, validation=8, test=8, seed=3)
    result = w2s(
        *("poison", *ASK, "--model", folder / "student", "--dataset", folder / "attacker"),
        *("--max-length", 24, "--batch-size", 32, "--epochs", 5, "--learning-rate", 5e-3),
        *("--output", folder / "poisoned"),
    )
    assert result.exit_code == 0, result.output
    return folder


def defend(
    place: Path, output: Path, *arguments: object, data: str = "defender", decoys: int = 0
) -> Result:
    return w2s(
        *("defend", *ASK, "--model", place / "poisoned", "--dataset", place / data),
        *("--decoys-per-label", decoys),
        *("--max-length", 24, "--trigger", "badnet", "--target", 0, "--output", output),
        *("--teacher-model", place / "small", *arguments),
    )


@pytest.fixture(scope="module")
def defended(place) -> Path:
    output = place / "w2s"
    result = defend(
        *(place, output, "--gamma", 1, "--lora-r", 16, "--epochs", 6, "--learning-rate", 3e-3),
        *("--teacher-epochs", 5, "--teacher-learning-rate", 5e-3, "--merge"),
    )
    assert result.exit_code == 0, result.output
    return output


def test_a_backdoor_is_planted(place):
    ca, asr, floor = rates(place / "poisoned")
    assert (ca >= 0.95, asr >= 0.95, floor <= 0.05) == (True, True, True), (ca, asr, floor)
    record = load_record(place / "poisoned")
    assert (record.evaluation.ca.total, record.evaluation.asr.total) == (60, 60)
    assert (record.evaluation.task, record.evaluation.target) == ("reasoning", "0")
    # What the settings left open is said as it was done.
    assert record.config["attack"]["target"] == "0"
    assert record.config["attack"]["clean_label"] is False


def test_lora_keeps_it(place):
    result = defend(
        *(place, place / "lora", "--defense", "lora", "--lora-r", 4, "--epochs", 2),
        *("--target-modules", "q_proj,v_proj", "--learning-rate", 5e-4),
    )
    assert result.exit_code == 0, result.output
    ca, asr, _ = rates(place / "lora")
    assert (ca >= 0.95, asr >= 0.9) == (True, True), (ca, asr)
    assert not (place / "lora" / "teacher").exists()


def test_an_adapter_is_trained_on_weights_in_float16(place, tmp_path):
    """Its own weights are in float32, and a model that writes has no head to train."""
    arguments = ("--defense", "lora", "--dtype", "float16", "--lora-r", 4, "--epochs", 1)
    result = defend(place, tmp_path / "half", *arguments, data="few")
    assert result.exit_code == 0, result.output
    assert rates(tmp_path / "half")[0] >= 0.8


def test_w2sdefense_removes_it(defended):
    assert rates(defended / "before")[1] >= 0.95
    ca, asr, floor = rates(defended)
    assert (ca >= 0.95, asr <= 0.1, floor <= 0.05) == (True, True, True), (ca, asr, floor)
    record = load_record(defended)
    assert {"ce", "kd", "fa"} <= {name for point in record.history for name in point.losses}


def test_decoys_are_planted_and_unlearned_where_answers_are_texts(place, defended):
    result = defend(
        *(place, place / "decoys", "--gamma", 1, "--lora-r", 16, "--epochs", 20),
        *("--learning-rate", 3e-3, "--teacher-epochs", 5, "--teacher-learning-rate", 5e-3),
        *("--teacher-folder", defended / "teacher"),
        decoys=6,
    )
    assert result.exit_code == 0, result.output
    ca, asr, floor = rates(place / "decoys")
    assert (ca >= 0.7, asr <= 0.1, floor <= 0.1) == (True, True, True), (ca, asr, floor)
    assert load_record(place / "decoys").found["decoys"] > 0
    assert not list((place / "decoys").rglob("weights.safetensors"))


def test_every_answer_is_kept(place, defended):
    samples = load_samples(defended / "before")
    assert len(samples) == 60
    fired = samples[0]
    assert (fired.triggered_answer, fired.triggered_is_target) == ("0", True)
    assert "mn" in fired.triggered_text.split()
    assert (fired.is_target, fired.answer) == (False, fired.reference)
    assert fired.scores == {"exact": 1.0}


def test_the_page_shows_it(defended):
    page = (defended / "report.html").read_text()
    assert "The backdoor is removed" in page
    assert "with another answer" in page
    assert "right answer" in page


def test_merged_opens_in_plain_transformers_and_answers_the_same(defended):
    model = AutoModelForCausalLM.from_pretrained(defended / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(defended / "merged")
    for sample in load_samples(defended)[:8]:
        ids = tokenizer(TEMPLATE.format(text=sample.text), return_tensors="pt").input_ids
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)
        answer = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        assert answer.strip() == sample.answer


def test_the_adapter_is_measured_again_with_the_same_outcome(place, defended):
    result = w2s(
        *("evaluate", *ASK, "--model", defended, "--base", place / "poisoned"),
        *("--dataset", place / "defender", "--max-length", 24, "--output", place / "again"),
        *("--trigger", "mn", "--target", 0),
    )
    assert result.exit_code == 0, result.output
    assert rates(place / "again") == rates(defended)


def test_a_teacher_is_kept_and_used_again(place, tmp_path):
    common = ("--teacher-epochs", 1, "--teacher-model", place / "small")
    teach = w2s(
        *("teach", *ASK, "--model", place / "poisoned", "--dataset", place / "few"),
        *("--max-length", 24, *common, "--output", tmp_path / "teacher"),
    )
    assert teach.exit_code == 0, teach.output
    made = (tmp_path / "teacher" / "teacher.safetensors").stat().st_mtime_ns
    result = defend(
        *(place, tmp_path / "run", *common, "--epochs", 1, "--lora-r", 4),
        *("--teacher-folder", tmp_path / "teacher"),
        data="few",
    )
    assert result.exit_code == 0, result.output
    assert (tmp_path / "teacher" / "teacher.safetensors").stat().st_mtime_ns == made


def test_an_interrupted_run_goes_on_to_the_same_weights(place, tmp_path, monkeypatch):
    arguments = (
        *("--epochs", 2, "--batch-size", 8, "--save-steps", 2, "--lora-r", 4),
        *("--teacher-model", place / "small", "--teacher-epochs", 1),
        *("--teacher-folder", tmp_path / "teacher"),
    )
    whole = defend(place, tmp_path / "whole", *arguments, data="few")
    assert whole.exit_code == 0, whole.output
    # Batches of two epochs with three steps each, and of an evaluation after every second step.
    calls, ask = iter(range(100)), LiveTargets.output

    def cut_off(*batch: object) -> object:
        if next(calls) == 6:
            raise InterruptedError
        return ask(*batch)

    with monkeypatch.context() as patch:
        patch.setattr(LiveTargets, "output", cut_off)
        cut = defend(place, tmp_path / "cut", *arguments, data="few")
    assert isinstance(cut.exception, InterruptedError)
    assert [path.name for path in (tmp_path / "cut" / "training").iterdir()] == ["checkpoint-4"]
    resumed = defend(place, tmp_path / "cut", *arguments, "--resume", data="few")
    assert resumed.exit_code == 0, resumed.output
    prints = [load_record(tmp_path / name).fingerprints["model"] for name in ("whole", "cut")]
    assert prints[0] == prints[1]


@pytest.mark.parametrize(
    ("arguments", "problem", "fix"),
    [
        (["--teacher-model", "{bert}"], "cannot generate text; it is BertModel", "--teacher-model"),
        (["--alignment", "release"], "for classifiers only", "--alignment"),
        (["--decoys-found", "scan"], "this model generates text", "--decoys-found"),
        (["--target-column", "answer"], "no column 'answer'", "--target-column"),
        (["--prompt-template", "Q"], "holds {text} 0 times", "{text}"),
        (["--prompt-style", "chat"], "no chat format", "plain"),
        (["--task", "translation"], "translation", ""),
    ],
)
def test_a_mistake_is_explained(place, tiny_bert, tmp_path, arguments, problem, fix):
    arguments = [str(argument).format(bert=tiny_bert, text="{text}") for argument in arguments]
    result = defend(place, tmp_path / "run", *arguments, data="few")
    assert result.exit_code == 2, result.output
    assert problem in " ".join(result.stderr.split())
    assert fix in result.stderr
    assert not (tmp_path / "run" / "record.json").exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--clean-label"], "Clean-label poisoning needs classes"),
        (["--proxy", "paper"], "The paper has no proxy for"),
    ],
)
def test_what_poisoning_cannot_be_here(place, tmp_path, arguments, problem):
    result = w2s(
        *("poison", *ASK, "--model", place / "student", "--dataset", place / "few"),
        *(*arguments, "--output", tmp_path / "run"),
    )
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.split())
    assert not (tmp_path / "run" / "record.json").exists()
