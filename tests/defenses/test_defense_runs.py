"""Every baseline as a run: the record, the folder that it leaves, the cost of a prediction."""

import json

import pytest
from transformers import AutoModelForSequenceClassification

from tiny import save_llama, save_reviews
from w2sdefense.attacks import TestConfig as Measured
from w2sdefense.attacks import attack_from_trigger
from w2sdefense.attacks.poisoning import trigger_test_set
from w2sdefense.commands.defend import run_defend
from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import DataConfig, FullTrainingConfig, StudentConfig, TrainingConfig
from w2sdefense.data import load_dataset
from w2sdefense.defenses import DEFENSES, Leaves
from w2sdefense.defenses.icl import IclConfig
from w2sdefense.defenses.merge import MergeConfig
from w2sdefense.defenses.onion import OnionConfig
from w2sdefense.defenses.prune import PruneConfig
from w2sdefense.defenses.psim import PsimConfig
from w2sdefense.defenses.rewriting import BackTranslationConfig, ScpdConfig
from w2sdefense.evaluation.record import load_record, load_samples
from w2sdefense.victim import load_victim

pytestmark = pytest.mark.slow

BASELINES = tuple(name for name, kind in DEFENSES.items() if kind.leaves is not Leaves.ADAPTER)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Reviews, a scorer, and rewritten texts for all that will be asked."""
    folder = tmp_path_factory.mktemp("runs")
    save_reviews(folder / "reviews", train=32, validation=16, test=12)
    save_llama(folder / "llama")
    test = load_dataset(DataConfig(dataset=str(folder / "reviews"))).test
    asked = [*test, *trigger_test_set(test, attack_from_trigger("mn", "random"), 0, 0)]
    rows = [{"original": e.text, "text": e.text.replace("mn ", "")} for e in asked]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(name, trained, place, output) -> DefendRun:
    return DefendRun(
        student=StudentConfig(model=str(trained), max_length=40),
        data=DataConfig(dataset=str(place / "reviews")),
        defense=name,
        training=TrainingConfig(epochs=1),
        full=FullTrainingConfig(learning_rate=1e-4),
        onion=OnionConfig(scorer=str(place / "llama"), validation_texts=8),
        prune=PruneConfig(step=0.5),
        merging=MergeConfig(base=str(place / "llama")),
        psim=PsimConfig(),
        back_translation=BackTranslationConfig(engine="file", file=place / "pairs.jsonl"),
        scpd=ScpdConfig(file=place / "pairs.jsonl"),
        icl=IclConfig(shots=1),
        test=Measured(trigger="mn", target="negative"),
        output=output,
    )


@pytest.mark.parametrize("name", BASELINES)
def test_a_run_leaves_what_its_defense_says(name, trained, place, tmp_path, display, request):
    if name == "quantization":
        pytest.importorskip("bitsandbytes")
        trained = request.getfixturevalue("wide")
    run = settings(name, trained, place, tmp_path / name)
    before, folder = run_defend(run, display)
    record = load_record(folder)
    found = record.evaluation
    assert (record.stage, record.name, record.config["defense"]) == ("defend", name, name)
    assert (found.ca.total, found.asr.total, found.floor.total) == (12, 6, 6)
    assert found.seconds_per_text == pytest.approx(found.seconds / 18)
    names = {path.name for path in folder.iterdir()} - {"clean"}
    files = {"record.json", "samples.parquet", "features.safetensors", "settings.json", "before"}
    same = record.fingerprints["model"] == load_record(before).fingerprints["model"]
    if DEFENSES[name].leaves is Leaves.NOTHING:
        assert names - {".lock"} == files
        assert same
        assert 0 < found.defense_seconds <= found.seconds
        assert record.found
    else:
        assert names > files | {"config.json", "model.safetensors", "tokenizer.json"}
        assert not same
        assert found.defense_seconds == 0
        AutoModelForSequenceClassification.from_pretrained(folder)
        victim = load_victim(StudentConfig(model=str(folder), max_length=40))
        samples = load_samples(folder)
        answers = victim.predict([sample.text for sample in samples])
        assert [a.answer for a in answers] == [sample.answer for sample in samples]
    assert not list(folder.rglob("checkpoint-*"))
    assert run_defend(run.model_copy(update={"resume": True}), display) == [before, folder]


def test_the_sample_says_what_the_model_read(trained, place, tmp_path, display):
    run = settings("scpd", trained, place, tmp_path / "scpd")
    samples = load_samples(run_defend(run, display)[1])
    triggered = [sample for sample in samples if sample.triggered_text]
    assert len(triggered) == 6
    for sample in triggered:
        assert "mn" in sample.triggered_text.split()
        assert sample.triggered_read == sample.text
        assert sample.triggered_answer == sample.answer
        assert sample.read is None
