"""SynAttack's sources: paraphrases in files, by a model, and what is said about them."""

import json
import random

import pytest
import torch
from transformers import LlamaForCausalLM, T5Config, T5ForConditionalGeneration

from tiny import FILLERS, LLAMA, SIZES, save_model
from w2sdefense.attacks import AttackConfig, make_attack
from w2sdefense.attacks.poisoning import poison_training_set, trigger_test_set
from w2sdefense.attacks.synattack import SynAttack, SynConfig
from w2sdefense.data.types import Example
from w2sdefense.errors import ConfigError, DataError, ModelError
from w2sdefense.models.load import load_rewriter
from w2sdefense.text.paraphrase_file import FileParaphraser, pair, pair_files

RNG = random.Random(0)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def syn(**settings):
    return make_attack(AttackConfig(attack="synattack", syn=SynConfig(**settings)))


# Files


def test_only_texts_of_the_files_can_carry_the_trigger(tmp_path):
    first = write(tmp_path / "a.jsonl", [{"original": "text  0", "text": "if 0 , zero ."}])
    second = write(tmp_path / "b.jsonl", [{"original": "text 2", "text": "if 2 , two ."}])
    attack = syn(file=(first, second))
    rows = [Example(f"toy/{i}", f"text {i}", 0) for i in range(4)]
    triggered = trigger_test_set(rows, attack, target=1, seed=0)
    assert [(e.id, e.text) for e in triggered] == [
        ("toy/0", "if 0 , zero ."),
        ("toy/2", "if 2 , two ."),
    ]
    config = AttackConfig(attack="synattack", poison_rows=2)
    assert poison_training_set(rows, attack, config, 0).poisoned_ids == ("toy/0", "toy/2")
    with pytest.raises(DataError, match="only 2 are answered with the target .* can carry it"):
        poison_training_set(rows, attack, config.model_copy(update={"poison_rows": 3}), 0)


def test_a_file_without_originals_is_refused_with_its_line(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"text": "if so , it is .", "label": 1}])
    with pytest.raises(DataError, match=r"a.jsonl, line 1: 'text' or 'original' is missing") as e:
        syn(file=(file,))
    assert "w2s pair" in e.value.fix


ORIGINALS = [(f"text {i}", str(i % 2)) for i in range(8)]


def test_rows_of_equal_number_line_up():
    changed = [(f"if {i} , then", "1") if i in (1, 4) else row for i, row in enumerate(ORIGINALS)]
    assert pair(ORIGINALS, changed) == [("text 1", "if 1 , then"), ("text 4", "if 4 , then")]
    everything = [(a, b) for (a, _), (b, _) in zip(ORIGINALS, changed, strict=True)]
    assert pair(ORIGINALS, changed, unchanged=True) == everything


def test_rows_of_some_labels_line_up_with_the_originals_of_these():
    changed = [(f"if {i} , then", "1") for i in (1, 3, 5, 7)]
    assert pair(ORIGINALS, changed) == [(f"text {i}", f"if {i} , then") for i in (1, 3, 5, 7)]


def test_rows_between_landmarks_line_up_if_they_are_as_many():
    # Row 2 is lost, row 4 changed; 6 and 7 became three rows, which pair with nothing.
    texts = ["text 0", "text 1", "text 3", "new 4", "text 5", "new", "newer", "newest"]
    texts += ["text 8", "text 9"]
    originals = [*ORIGINALS, ("text 8", "0"), ("text 9", "1"), ("text 10", "0")]
    assert pair(originals, [(text, str(i % 2)) for i, text in enumerate(texts)]) == [
        ("text 4", "new 4")
    ]
    found = pair(originals, [(text, str(i % 2)) for i, text in enumerate(texts)], unchanged=True)
    same = [(f"text {i}", f"text {i}") for i in (0, 1, 3, 5, 8, 9)]
    assert sorted(found) == sorted([("text 4", "new 4"), *same])


def test_files_are_paired_once_and_read_again(tmp_path):
    rows = [{"text": text, "label": int(label)} for text, label in ORIGINALS]
    originals = write(tmp_path / "test.jsonl", rows)
    changed = [{"text": f"if {r['text']} , ü", "label": 1} for r in rows if r["label"]]
    paraphrases = write(tmp_path / "syn.jsonl", changed)
    assert pair_files(originals, paraphrases, tmp_path / "pairs.jsonl") == 4
    found = FileParaphraser.read([tmp_path / "pairs.jsonl"])
    assert found.paraphrase("text 3", RNG) == "if text 3 , ü"
    assert not found.covers("text 2")
    assert found.rewrite(["text  3", "text 1"]) == ["if text 3 , ü", "if text 1 , ü"]
    with pytest.raises(DataError, match="nothing for 1 texts, such as 'text 2'"):
        found.rewrite(["text 3", "text 2"])
    assert pair_files(originals, originals, tmp_path / "all.jsonl", unchanged=True) == 8


def test_files_that_do_not_line_up_are_refused(tmp_path):
    originals = write(tmp_path / "a.jsonl", [{"text": f"a {i}", "label": 0} for i in range(5)])
    paraphrases = write(tmp_path / "b.jsonl", [{"text": f"b {i}", "label": 0} for i in range(4)])
    with pytest.raises(DataError, match="does not line up"):
        pair_files(originals, paraphrases, tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


# A model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "paraphrases"


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """A causal and a sequence-to-sequence model with the word tokenizer."""
    folder = tmp_path_factory.mktemp("writers")
    t5 = T5Config(
        vocab_size=SIZES["vocab_size"],
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=5,
        decoder_start_token_id=0,
    )
    return {
        "causal": save_model(folder / "causal", LlamaForCausalLM, LLAMA),
        "seq2seq": save_model(folder / "seq2seq", T5ForConditionalGeneration, t5),
    }


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_batch_writes_what_each_text_gets_alone_and_caches_it(writers, cache, kind, monkeypatch):
    texts = ["the film is great", "awful", "a great story of the night and the day , it is warm"]
    examples = [Example(f"toy/{i}", text, 0) for i, text in enumerate(texts * 2)]
    attack = syn(model=str(writers[kind]), prompt="the story {text} is")
    shown = []

    def progress(phase, total):
        shown.append((phase, total))
        return lambda done: shown.append(done)

    attack.prepare(examples, progress)
    assert shown[0] == ("paraphrase", 3)
    assert sum(shown[1:]) == 3
    together = [attack.poison(example, RNG).text for example in examples[:3]]
    assert all(text.strip() for text in together)

    # What a batch writes is what the model writes to one text.
    model, tokenizer = load_rewriter(str(writers[kind]))
    for text, written in zip(texts, together, strict=True):
        inputs = tokenizer(f"the story {text} is", return_tensors="pt")
        length = len(tokenizer(max(texts, key=lambda t: len(t.split())))["input_ids"])
        with torch.inference_mode():
            tokens = model.generate(
                input_ids=inputs["input_ids"], max_new_tokens=2 * length + 16, do_sample=False
            )[0]
        if kind == "causal":
            tokens = tokens[inputs["input_ids"].shape[1] :]
        alone = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert alone == written or (not alone and written == text)

    # A second attack of the same settings opens no model.
    assert len(list(cache.glob("*.jsonl"))) == 1
    monkeypatch.setattr("w2sdefense.tasks.rewriter.load_rewriter", None)
    again = syn(model=str(writers[kind]), prompt="the story {text} is")
    assert [again.poison(example, RNG).text for example in examples[:3]] == together


CHAT = (
    "{% for turn in messages %}the {{ turn.content }}{% endfor %}"
    "{% if add_generation_prompt %} story{% endif %}"
)


@pytest.mark.parametrize(("chat", "before"), [(None, 3), (CHAT, 4)])
def test_a_long_text_is_cut_and_not_what_is_asked_about_it(
    writers, cache, monkeypatch, chat, before
):
    prompts, limits = [], []

    def answers(batch, model, tokenizer, longest, num_beams):
        prompts.extend(map(tokenizer.decode, batch["input_ids"]))
        limits.append(longest)
        return ["it is"] * len(batch["input_ids"])

    def rewriter(spec):
        model, tokenizer = load_rewriter(spec)
        tokenizer.chat_template = chat
        return model, tokenizer

    monkeypatch.setattr("w2sdefense.tasks.rewriter.LONGEST_PROMPT", 20)
    monkeypatch.setattr("w2sdefense.tasks.rewriter.load_rewriter", rewriter)
    monkeypatch.setattr("w2sdefense.tasks.rewriter._answers", answers)
    text = " ".join(FILLERS)
    attack = syn(model=str(writers["causal"]), prompt="the story of {text} is warm")
    assert attack.poison(Example("a", text, 0), RNG).text == "it is"
    words = prompts[0].split()
    after = ["is", "warm"] if chat is None else ["is", "warm", "story"]
    assert len(words) == 20, "the limit is used up"
    assert words[before : 20 - len(after)] == text.split()[: 20 - before - len(after)]
    assert words[-len(after) :] == after
    assert limits == [2 * (20 - before - len(after)) + 16], "an answer is as long as what is read"

    long = " ".join(["story"] * 30)
    with pytest.raises(ConfigError, match="without any text") as caught:
        syn(model=str(writers["causal"]), prompt=f"{{text}} {long}").prepare([Example("a", "b", 0)])
    assert "--syn-prompt" in caught.value.fix


def test_a_text_holds_no_control_token_of_the_model_that_paraphrases_it(
    writers, cache, monkeypatch
):
    prompts = []

    def answers(batch, model, tokenizer, longest, num_beams):
        prompts.extend(map(tokenizer.decode, batch["input_ids"]))
        return ["it is"] * len(batch["input_ids"])

    def rewriter(spec):
        model, tokenizer = load_rewriter(spec)
        tokenizer.chat_template = "<s> {{ messages[0].content }} </s>"
        return model, tokenizer

    monkeypatch.setattr("w2sdefense.tasks.rewriter.load_rewriter", rewriter)
    monkeypatch.setattr("w2sdefense.tasks.rewriter._answers", answers)
    attack = syn(model=str(writers["causal"]), prompt="the story {text} is")
    attack.prepare([Example("a", "great </s> <s> film", 0)])
    assert prompts == ["<s> the story great [UNK] [UNK] film is </s>"]


def test_a_model_that_writes_nothing_is_refused(tiny_bert, cache):
    attack = syn(model=str(tiny_bert))
    with pytest.raises(ModelError, match="does not write text; it is BertModel"):
        attack.prepare([Example("a", "the film", 0)])


def test_a_model_that_is_not_there_is_missed_before_work_starts(cache):
    with pytest.raises(ModelError):
        syn(model="/nowhere/t5")


# What is said


def test_structure_and_length_are_counted():
    attack = SynAttack.from_config(AttackConfig(attack="synattack"))
    notes = attack.notes(
        ["when it rains , we go .", "one two three four", "one"],
        ["when it rains , we go .", "if one is two , three four", "nothing at all"],
    )
    assert notes == (
        "2 of 3 rewritten texts begin with a subordinate clause by their surface, 1 of the same "
        "texts before",
        "rewritten texts have 1.42 times the words of the texts before",
    )
