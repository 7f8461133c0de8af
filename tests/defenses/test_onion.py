"""ONION: which words go, how the threshold is chosen, and the whole of it on a tiny model."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from tiny import LLAMA, save_model
from w2sdefense.commands.runs import DefendRun
from w2sdefense.data import Example
from w2sdefense.defenses.onion import Onion, OnionConfig, choose_threshold, drop_words
from w2sdefense.errors import ModelError
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.perplexity import Scorer
from w2sdefense.tasks.classification import Classification

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("text", "scores", "expected"),
    [
        ("a mn film", [1.0, 9.0, 2.0], "a film"),
        ("a mn  film", [1.0, 4.0, 2.0], "a mn  film"),  # nothing goes: the text as it is
        ("a mn film", [1.0, 5.0, 5.0], "a"),  # the threshold itself counts
        ("mn cf tq", [9.0, 7.0, 8.0], "cf"),  # something must stay
        ("", [], ""),
    ],
)
def test_words_that_reach_the_threshold_are_dropped(text, scores, expected):
    assert drop_words(text, scores, 5.0) == expected


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(-9, 9)), min_size=1), st.floats(-9, 9))
def test_what_is_left_is_in_order_and_never_nothing(pairs, threshold):
    words, scores = [w for w, _ in pairs], [s for _, s in pairs]
    left = drop_words(" ".join(words), scores, threshold).split()
    below = [word for word, score in pairs if score < threshold]
    assert left == (below or [words[scores.index(min(scores))]])


def test_the_scorer_is_where_the_model_is(victim, kit, tmp_path, monkeypatch):
    moved = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(LlamaForCausalLM, "to", lambda model, device: moved.append(device) or model)
    scorer = str(save_model(tmp_path / "scorer", LlamaForCausalLM, LLAMA))
    Onion(OnionConfig(scorer=scorer, threshold=1.0)).apply(victim, kit)
    assert moved == ["cuda"]


class NeedsThe:
    """Answers 1 where "great" is in the text, 0 otherwise."""

    task = Classification(None, ("negative", "positive"))

    def predict(self, texts):
        return [SimpleNamespace(answer=int("great" in text.split())) for text in texts]


def examples(count: int) -> tuple[list[Example], list[list[float]]]:
    """Texts of two words; "great" of text i has the score i + 1, the filler one below 1."""
    made = [Example(str(i), "great film", 1) for i in range(count)]
    return made, [[i + 1.0, i / count] for i in range(count)]


def test_the_threshold_is_the_lowest_that_clean_text_bears():
    made, scores = examples(100)
    # Thresholds at 1, 2, 4, 6, 10 ... of 200 words; each of the most suspicious costs a text.
    assert choose_threshold(NeedsThe(), made, scores, 0.02) == (99.0, 0.02)
    assert choose_threshold(NeedsThe(), made, scores, 0.05) == (97.0, 0.04)
    assert choose_threshold(NeedsThe(), made, scores, 0.0) == (math.inf, 0.0)


def test_a_threshold_below_one_that_costs_too_much_is_not_chosen():
    # "great" is the most suspicious word of two texts; dropping fillers costs nothing any more.
    made = [Example(str(i), "great film", 1) for i in range(50)]
    scores = [[100.0 if i < 2 else 0.5, 10.0] for i in range(50)]
    assert choose_threshold(NeedsThe(), made, scores, 0.02) == (math.inf, 0.0)
    assert choose_threshold(NeedsThe(), made, scores, 0.04) == (10.0, 0.04)


def test_negative_scores_are_no_reason_to_drop():
    made = [Example("0", "film great", 1)]
    assert choose_threshold(NeedsThe(), made, [[-1.0, -2.0]], 1.0) == (math.inf, 0.0)


@pytest.fixture(scope="module")
def scorer_folder(tmp_path_factory):
    """A language model that is not indifferent."""
    folder = save_model(tmp_path_factory.mktemp("lm") / "lm", LlamaForCausalLM, LLAMA)
    model, _ = load_causal_lm(str(folder))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
    model.save_pretrained(folder)
    return folder


def test_the_same_words_go_as_one_by_one(victim, kit, scorer_folder):
    config = OnionConfig(scorer=str(scorer_folder), threshold=20.0)
    texts = [example.text for example in kit.data.test]
    answers = Onion(config).apply(victim, kit).predict(texts)
    model, tokenizer = load_causal_lm(str(scorer_folder))

    def perplexity(words):
        ids = torch.tensor([[4, *tokenizer(" ".join(words))["input_ids"]]])
        with torch.inference_mode():
            return float(torch.exp(model(input_ids=ids, labels=ids).loss))

    changed = 0
    for text, answer in zip(texts, answers, strict=True):
        words = text.split()
        whole = perplexity(words)
        keep = [
            word
            for i, word in enumerate(words)
            if whole - perplexity(words[:i] + words[i + 1 :]) < 20.0
        ]
        expected = " ".join(keep) if len(keep) < len(words) else None
        changed += expected is not None
        assert answer.read == expected
    assert 0 < changed < len(texts)


def test_the_threshold_is_chosen_on_validation_text(victim, kit, scorer_folder, accuracy):
    config = OnionConfig(scorer=str(scorer_folder), validation_texts=50, max_loss=0.04)
    seen = []
    kit = type(kit)(**{**vars(kit), "progress": lambda phase: lambda *step: seen.append(step)})
    defended = Onion(config).apply(victim, kit)
    assert defended.found["onion_validation_texts"] == 50
    assert defended.found["onion_accuracy_lost"] <= 0.04
    assert 0 < defended.found["onion_threshold"] < math.inf
    assert [step[:2] for step in seen] == [(32, 50), (50, 50)]
    assert accuracy(defended) >= accuracy(victim) - 0.06, "ten more texts than the fifty"


def test_a_scorer_that_is_not_there_is_found_out_at_once():
    with pytest.raises(ModelError, match="nowhere"):
        Onion.of(DefendRun(onion=OnionConfig(scorer="./nowhere/at all"))).check()


def test_a_scorer_must_be_a_language_model(trained):
    with pytest.raises(ModelError, match="cannot generate text"):
        load_causal_lm(str(trained))


def test_the_scorer_has_kept_what_the_variants_share(scorer_folder):
    model, tokenizer = load_causal_lm(str(scorer_folder))
    scorer = Scorer(model, tokenizer, "tiny")
    with pytest.raises(ModelError, match="tiny does not keep the keys and values of 3 tokens"):
        scorer._shared_part(SimpleNamespace(layers=[]), [SimpleNamespace(text=0)], 3)
