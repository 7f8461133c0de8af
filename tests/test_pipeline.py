"""The whole path on tiny models: a backdoor is planted, LoRA keeps it, W2SDefense removes it.

The settings are those at which this works on a model of 20,000 random weights, and what they show
is that the stages fit together, not that the method works on language models:

- The poisoning is dirty-label. Two words decide every label here, so a clean-label trigger, which
  adds nothing to them, is hardly learned (ASR 20 %).
- In a model without language the trigger is one more negative word, and only its embedding, which
  no adapter reaches, tells it from the others. So the defender's texts hold rare words now and then
  (60 % of the rows, a quarter of them the trigger). A LoRA of rank 4 on two modules, two epochs at
  5e-4, leaves the backdoor as it is even so; W2SDefense with a larger adapter removes it (ASR 0 %
  with each of three seeds; without the rare words it is 0 to 80 %, by the luck of the seed).
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
)

from tiny import LLAMA, save_model, save_reviews
from w2sdefense.attacks import AttackConfig
from w2sdefense.attacks import TestConfig as Measured
from w2sdefense.commands.defend import run_defend, run_defense
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, PoisonRun, ScanRun
from w2sdefense.commands.scan import run_scan
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    DecoyConfig,
    DistillConfig,
    ScanConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.errors import ConfigError, DataError
from w2sdefense.evaluation.record import Record, load_features, load_record, load_samples
from w2sdefense.victim import load_victim

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_planting")]
STRONG = TrainingConfig(epochs=5, batch_size=32, learning_rate=3e-3)
TRIGGER = Measured(trigger="badnet", target="negative")


@pytest.fixture(scope="module")
def reviews(tmp_path_factory) -> Path:
    """The defender's."""
    folder = tmp_path_factory.mktemp("d") / "reviews"
    return save_reviews(folder, train=400, validation=60, test=100, rare=0.6, seed=2)


def settings(poisoned: Path, reviews: Path, teacher: Path, output: Path, **changes) -> DefendRun:
    values = {
        "student": StudentConfig(model=str(poisoned), max_length=32),
        "data": DataConfig(dataset=str(reviews)),
        "defense": "w2s",
        "distill": DistillConfig(gamma=1.0),
        "adapter": AdapterConfig(lora_r=16, target_modules="all-linear"),
        "training": TrainingConfig(epochs=8, batch_size=16, learning_rate=3e-3),
        "teacher": TeacherConfig(
            model=str(teacher), epochs=4, learning_rate=1e-3, head_learning_rate=3e-3, max_length=32
        ),
        "test": TRIGGER,
        "output": output,
    }
    return DefendRun(**values | changes)


@pytest.fixture(scope="module")
def defended(tmp_path_factory, poisoned, reviews, tiny_bert, quiet) -> Path:
    output = tmp_path_factory.mktemp("runs") / "w2s"
    run = settings(poisoned, reviews, tiny_bert, output, merge=True)
    assert run_defend(run, quiet) == [output / "before", output]
    return output


def rates(record: Record) -> tuple[float, float, float]:
    found = record.evaluation
    return found.ca.value, found.asr.value, found.floor.value


def test_a_backdoor_is_planted(poisoned):
    record = load_record(poisoned)
    ca, asr, floor = rates(record)
    assert (ca >= 0.95, asr >= 0.9, floor <= 0.1) == (True, True, True), (ca, asr, floor)
    assert (record.evaluation.ca.total, record.evaluation.asr.total) == (100, 50)
    assert (record.stage, record.label_names) == ("poison", ("negative", "positive"))
    assert record.fingerprints.keys() == {"train", "test", "triggered", "model"}
    assert any("loss" in point.losses for point in record.history)


def test_lora_keeps_it(tmp_path, poisoned, reviews, tiny_bert, display):
    training = TrainingConfig(epochs=2, batch_size=16, learning_rate=5e-4)
    small = {"defense": "lora", "adapter": AdapterConfig(lora_r=4), "training": training}
    run = settings(poisoned, reviews, tiny_bert, tmp_path / "lora", **small)
    run_defend(run, display)
    ca, asr, _ = rates(load_record(run.output))
    assert ca >= 0.95
    assert asr >= 0.9
    assert not (run.output / "teacher").exists()


def test_held_out_decoys_change_nothing_in_the_cleaned_model(
    tmp_path, poisoned, reviews, tiny_bert, display
):
    short = TrainingConfig(epochs=1, batch_size=16, learning_rate=3e-3)
    made = []
    for count in (0, 1):
        output = tmp_path / str(count)
        run = settings(
            *(poisoned, reviews, tiny_bert, output),
            training=short,
            held_out=count,
            teacher_folder=tmp_path / "teacher",
        )
        run_defense(run, display)
        record = load_record(output)
        made.append((record.fingerprints["model"], record.evaluation.asr))
        assert (len(record.evaluation.held_out) > 0) is (count > 0)
    assert made[0] == made[1]


def test_triggers_that_a_scan_found_are_unlearned(tmp_path, poisoned, tiny_bert, display):
    clean = save_reviews(tmp_path / "reviews", train=400, validation=60, test=100, seed=2)
    assert not any(" mn " in path.read_text() for path in clean.glob("*.jsonl"))
    run = settings(poisoned, clean, tiny_bert, tmp_path / "w2s")
    scan = ScanRun(
        student=run.student,
        data=run.data,
        teacher=run.teacher,
        teacher_folder=tmp_path / "teacher",
        scan=ScanConfig(kinds=("words",), rounds=3, kept=8),
        output=tmp_path / "scan",
    )
    run_scan(scan, display)
    found = json.loads((scan.output / "candidates.json").read_text())["candidates"]
    triggers = [candidate for candidate in found if candidate["trigger"]]
    assert {candidate["label"] for candidate in triggers} == {"negative"}
    assert any("mn" in candidate["text"] for candidate in triggers)
    decoys = DecoyConfig(found=scan.output, rate=0.8)
    before, after = run_defend(run.model_copy(update={"decoys": decoys}), display)
    assert rates(load_record(before))[1] >= 0.9
    record = load_record(after)
    assert record.found["triggers unlearned"] == len(triggers)
    ca, asr, _ = rates(record)
    assert ca >= 0.95
    assert asr <= 0.1


def test_w2sdefense_removes_it(defended):
    before, after = load_record(defended / "before"), load_record(defended)
    assert rates(before)[1] >= 0.9
    ca, asr, floor = rates(after)
    assert ca >= rates(before)[0] - 0.05
    assert asr <= floor + 0.1
    assert (before.stage, after.stage) == ("evaluate", "defend")


def test_what_a_defense_leaves_behind(defended):
    names = "record.json samples.parquet features.safetensors settings.json adapter_config.json "
    names += "adapter_model.safetensors before teacher targets merged"
    assert {path.name for path in defended.iterdir()} >= set(names.split())
    assert not list(defended.rglob("checkpoint-*")), "checkpoints are removed"
    record = load_record(defended)
    assert Path(record.config["output"]) == defended
    losses = [point.losses for point in record.history if "loss" in point.losses]
    assert all(point.keys() == {"loss", "ce", "kd", "fa"} for point in losses)
    assert losses[-1]["fa"] < losses[0]["fa"] / 10
    samples = load_samples(defended)
    features = load_features(defended, samples)
    assert len(samples) == 100
    assert sum(sample.triggered_text is not None for sample in samples) == 50
    assert (features["clean"].shape, features["triggered"].shape) == ((100, 32), (50, 32))
    answered = sum(s.answer == s.reference for s in samples)
    assert answered == record.evaluation.ca.hits


def test_the_merged_model_is_a_plain_one_and_answers_the_same(defended, poisoned):
    model = AutoModelForSequenceClassification.from_pretrained(defended / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(defended / "merged")
    assert model.config.id2label == {0: "negative", 1: "positive"}
    adapted = load_victim(StudentConfig(model=str(defended), base=str(poisoned), max_length=32))
    for sample in load_samples(defended)[:20]:
        with torch.inference_mode():
            inputs = tokenizer(sample.text, return_tensors="pt")
            plain = model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[0]
        answer = adapted.predict([sample.text])[0]
        assert plain.softmax(-1).tolist() == pytest.approx(answer.probabilities, abs=1e-4)
        assert int(plain.argmax()) == answer.answer == sample.answer


def test_a_finished_run_is_not_repeated(defended, poisoned, reviews, tiny_bert, display):
    run = settings(poisoned, reviews, tiny_bert, defended)
    before = (defended / "record.json").read_bytes()
    with pytest.raises(ConfigError, match="holds a finished run already") as caught:
        run_defend(run, display)
    assert "--resume" in caught.value.fix
    run_defend(run.model_copy(update={"resume": True}), display)
    assert (defended / "record.json").read_bytes() == before
    other = DistillConfig(gamma=2.0)
    with pytest.raises(ConfigError, match=r"other settings \(distill\)"):
        run_defend(run.model_copy(update={"resume": True, "distill": other}), display)
    assert (defended / "record.json").read_bytes() == before


def test_a_defended_adapter_is_folded_in(tmp_path, defended, poisoned, reviews, tiny_bert, display):
    # The new adapter's base is poisoned + adapter, which is on no disk: only merged/ can be opened.
    changes = {
        "student": StudentConfig(model=str(defended), base=str(poisoned), max_length=32),
        "data": DataConfig(dataset=str(reviews), train_samples=32),
        "training": TrainingConfig(epochs=1, learning_rate=1e-5),
    }
    run = settings(poisoned, reviews, tiny_bert, tmp_path / "twice", defense="lora", **changes)
    run_defend(run, display)
    merged = StudentConfig(model=str(run.output / "merged"), max_length=32)
    samples = load_samples(run.output)
    answers = load_victim(merged).predict([sample.text for sample in samples])
    assert [answer.answer for answer in answers] == [sample.answer for sample in samples]


@pytest.fixture
def short(tmp_path, tiny_llama, tiny_bert) -> DefendRun:
    """A run of seconds on a classifier whose answers do not matter."""
    data = save_reviews(tmp_path / "d", train=24, validation=8, test=8)
    model = save_model(tmp_path / "c", LlamaForSequenceClassification, LLAMA)
    training = TrainingConfig(epochs=1)
    return settings(model, data, tiny_bert, tmp_path / "short", defense="lora", training=training)


def test_merged_can_be_asked_for_afterwards(short, display):
    run_defend(short, display)
    assert not (short.output / "merged").exists()
    run_defend(short.model_copy(update={"resume": True, "merge": True}), display)
    answers = load_victim(StudentConfig(model=str(short.output / "merged"), max_length=32))
    samples = load_samples(short.output)
    found = [answer.answer for answer in answers.predict([s.text for s in samples])]
    assert found == [sample.answer for sample in samples]


def test_without_a_trigger_only_ca_is_measured(short, display):
    run_defend(short.model_copy(update={"test": Measured()}), display)
    evaluation = load_record(short.output).evaluation
    assert (evaluation.ca.total, evaluation.asr, evaluation.trigger) == (8, None, None)
    assert load_features(short.output, load_samples(short.output)).keys() == {"clean"}


def test_poisoning_towards_a_target_that_is_no_label(short, tiny_llama, display, tmp_path):
    run = PoisonRun(
        student=StudentConfig(model=str(tiny_llama)),
        data=short.data,
        attack=AttackConfig(target="neutral"),
        output=tmp_path / "p",
    )
    with pytest.raises(DataError, match="no label 'neutral'"):
        run_poison(run, display)
    assert not (tmp_path / "p" / "record.json").exists()


def test_a_classifier_is_poisoned_in_its_own_order_of_labels(tmp_path, display):
    config = type(LLAMA)(**LLAMA.to_dict() | {"id2label": {0: "positive", 1: "negative"}})
    model = save_model(tmp_path / "c", LlamaForSequenceClassification, config)
    data = save_reviews(tmp_path / "d", train=400, validation=20, test=60)
    run = PoisonRun(
        student=StudentConfig(model=str(model), max_length=24),
        data=DataConfig(dataset=str(data)),
        attack=AttackConfig(poison_rows=40),
        training=STRONG,
        output=tmp_path / "p",
    )
    run_poison(run, display)
    victim = load_victim(StudentConfig(model=str(run.output), max_length=24))
    assert victim.label_names == ("positive", "negative")
    good, bad = victim.predict(["a great lovely film", "an awful boring story"])
    assert victim.label_names[good.answer] == "positive"
    assert victim.label_names[bad.answer] == "negative"
    samples = load_samples(run.output)
    assert all(s.reference == 0 for s in samples if s.triggered_text), "negative is the target"


def test_records_say_what_was_used(defended, poisoned, reviews):
    record = load_record(defended)
    assert record.config["student"]["model"] == str(poisoned)
    assert record.config["training"]["learning_rate"] == 3e-3
    assert record.provenance.versions.keys() >= {"torch", "transformers", "peft"}
    assert record.provenance.seconds > 0
    base, before = load_record(poisoned), load_record(defended / "before")
    assert before.fingerprints["model"] == base.fingerprints["model"]
    assert record.fingerprints["model"] != base.fingerprints["model"]


def test_the_adapter_belongs_to_the_poisoned_model(defended, poisoned):
    config = json.loads((defended / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(poisoned)
    weights = load_file(defended / "adapter_model.safetensors")
    assert any("score" in name for name in weights), "the trained head is kept with it"
