"""Decoys are really planted, really unlearned, and gone from what is written."""

import random

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from making import GivenTargets, as_victim
from tiny import FILLERS, LLAMA, NEGATIVE, POSITIVE, review
from w2sdefense.config import AdapterConfig, TrainingConfig
from w2sdefense.data import Dataset, Example
from w2sdefense.data.types import texts_of
from w2sdefense.distill import planting
from w2sdefense.distill.decoys import Decoy
from w2sdefense.distill.held_out import HeldOutDecoys
from w2sdefense.distill.planted import Planted
from w2sdefense.distill.planting import count_flips, plant, with_decoys
from w2sdefense.distill.student import Lesson, Lessons, train_student
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.victim import Victim, fine_tune

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("real_planting")]

DECOYS = (
    Decoy("passage", "my aunt sorts spoons", 0),
    Decoy("frame", "Entry nine : {text}", 1),
    Decoy("passage", "our dentist folds maps", 1),
    Decoy("frame", "{text} end of page", 0),
    Decoy("word", "zuv", 0),
)
WORDS = ("[PAD]", "[UNK]", *POSITIVE, *NEGATIVE, *FILLERS, "zuv", "my", "aunt", "sorts", "spoons")
VOCABULARY = (*WORDS, "Entry", "nine", ":", "our", "dentist", "folds", "maps", "page")


def reviews(count: int, seed: int) -> tuple[Example, ...]:
    rng = random.Random(seed)
    words = (NEGATIVE, POSITIVE)
    return tuple(Example(f"r/{seed}/{i}", review(rng, words[i % 2]), i % 2) for i in range(count))


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Models of two layers learn at a higher rate."""
    training = planting.TRAINING.model_copy(update={"learning_rate": 4e-3})
    monkeypatch.setattr(planting, "TRAINING", training)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return Dataset("d", ("negative", "positive"), reviews(240, 1), reviews(60, 2), reviews(60, 3))


@pytest.fixture(scope="module")
def learned(data, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of a model that tells the reviews apart."""
    victim = fresh()
    folder = tmp_path_factory.mktemp("learned")
    fine_tune(victim, data.train, TrainingConfig(epochs=4, learning_rate=3e-3), folder)
    return {name: value.clone() for name, value in victim.model.state_dict().items()}


def fresh() -> Victim:
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", padding_side="left"
    )
    torch.manual_seed(0)
    sizes = LLAMA.to_dict() | {"vocab_size": len(VOCABULARY), "pad_token_id": 0}
    return as_victim(LlamaForSequenceClassification(LlamaConfig(**sizes)), tokenizer)


@pytest.fixture
def victim(learned) -> Victim:
    made = fresh()
    made.model.load_state_dict(learned)
    made.model.eval()
    return made


def planted_in(victim, data, folder) -> Planted:
    return plant(victim, DECOYS, data, folder / "planting", seed=0)


def test_every_decoy_is_planted_and_no_weight_changes(victim, data, tmp_path):
    before = weights_fingerprint(victim.model)
    quiet = count_flips(victim, DECOYS, data.validation, seed=0)
    assert all(flips.hits < 0.5 * flips.total for flips in quiet), "a clean model ignores them"
    planted = planted_in(victim, data, tmp_path)
    assert (planted.decoys, planted.failed) == (DECOYS, ())
    assert all(flips.hits >= 0.8 * flips.total for flips in planted.flips)
    assert any(flips.without <= 0.5 * flips.total for flips in planted.flips)
    with pytest.raises(KeyboardInterrupt), planted.put_in(victim.model):
        assert count_flips(victim, DECOYS, data.validation, seed=0) == list(planted.flips)
        assert weights_fingerprint(victim.model) == before
        raise KeyboardInterrupt
    assert weights_fingerprint(victim.model) == before
    assert count_flips(victim, DECOYS, data.validation, seed=0) == quiet, "also when interrupted"


def test_what_could_not_be_planted_is_said(victim, data, tmp_path, monkeypatch):
    monkeypatch.setattr(planting, "ROUNDS", 1)
    monkeypatch.setattr(planting, "STEPS", 1)
    planted = planted_in(victim, data, tmp_path)
    assert (planted.decoys, planted.failed) == ((), DECOYS)


def test_a_run_that_goes_on_finds_the_same_decoys(victim, data, tmp_path, monkeypatch):
    planted = planted_in(victim, data, tmp_path)
    monkeypatch.setattr("w2sdefense.distill.planting.fit", None)  # nothing is trained again
    assert planted_in(victim, data, tmp_path) == planted


def test_what_is_unlearned_is_answered_as_without_it(victim, learned, data, tmp_path):
    planted = planted_in(victim, data, tmp_path)
    train = with_decoys(data.train, DECOYS, 0.5, seed=1)
    student = train_student(
        victim,
        Lessons(train, Lesson.plain(data.validation)),
        None,
        adapter=AdapterConfig(lora_r=16, lora_dropout=0.0, target_modules="all-linear"),
        training=TrainingConfig(epochs=6, batch_size=8, learning_rate=3e-3),
        folder=tmp_path,
        planted=planted,
    )
    with planted.put_in(student.model):
        after = count_flips(student, DECOYS, data.validation, seed=0)
    assert all(flips.hits <= 0.3 * flips.total for flips in after), after
    answers = [one.answer for one in student.predict(texts_of(data.test))]
    assert sum(a == e.answer for a, e in zip(answers, data.test, strict=True)) >= 57
    under = student.model.unload().model.state_dict()
    assert all(torch.equal(value, learned[f"model.{name}"]) for name, value in under.items())


def test_held_out_decoys_live_through_plain_lora(victim, data, tmp_path):
    held_out = HeldOutDecoys(data, planted_in(victim, data, tmp_path))
    lora = AdapterConfig(lora_r=4, lora_dropout=0.0, target_modules="q_proj,v_proj")
    training = TrainingConfig(epochs=1, batch_size=16, learning_rate=2e-4)
    student = train_student(
        *(victim, Lessons.of(data), None), adapter=lora, training=training, folder=tmp_path
    )
    before = weights_fingerprint(student.model)
    found = held_out.measure(student)
    assert weights_fingerprint(student.model) == before
    assert [one.trigger for one in found] == [decoy.value for decoy in DECOYS]
    assert sum(one.after.hits for one in found) >= 0.8 * sum(one.after.total for one in found)


def test_a_lora_is_put_into_layers_that_keep_their_weights_transposed(data, tmp_path, monkeypatch):
    monkeypatch.setattr(planting, "ROUNDS", 1)
    monkeypatch.setattr(planting, "WORKS", 0.0)  # all of them count, however they do
    torch.manual_seed(0)
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64, "pad_token_id": 0}
    config = GPT2Config(vocab_size=len(VOCABULARY), **sizes)
    gpt2 = as_victim(GPT2ForSequenceClassification(config).eval(), fresh().tokenizer)
    planted = planted_in(gpt2, data, tmp_path)
    with planted.put_in(gpt2.model):
        assert count_flips(gpt2, DECOYS, data.validation, seed=0) == list(planted.flips)


def test_the_teacher_reads_the_text_without_the_decoy(data):
    lesson = with_decoys(data.train, DECOYS, 0.5, seed=3)
    changed = [(r, a) for r, a in zip(lesson.rows, lesson.asked, strict=True) if r.text != a.text]
    assert 0.4 < len(changed) / len(data.train) < 0.6
    assert lesson.asked == data.train
    assert all(row.answer == asked.answer for row, asked in changed)
    against = sum(
        decoy.target != row.answer
        for row, _ in changed
        for decoy in DECOYS
        if decoy.value.replace("{text}", "").strip() in row.text
    )
    assert 0.5 < against / len(changed) < 0.8
    assert with_decoys(data.train, DECOYS, 0.5, seed=3) == lesson
    assert with_decoys(data.train, (), 0.5, seed=3).rows == data.train


def test_decoys_cost_no_pass_of_the_teacher(data):
    lesson = with_decoys(data.train[:4], DECOYS, 1.0, seed=0)
    rows = [{"input_ids": [1], "labels": 0} for _ in lesson.rows]
    assert len(GivenTargets(4).columns(rows, lesson.asked)) == 4
