"""Two models asked the same texts: answers, what each word does to them, and the trigger."""

import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from records import sample
from tiny_writers import TEMPLATE, llama, save_writer
from w2sdefense.config import GenerationConfig, StudentConfig
from w2sdefense.errors import ConfigError, DataError
from w2sdefense.evaluation.record import Sample
from w2sdefense.play.pair import MOST_PIECES, Pair, log_odds, open_pair, pieces, pulls
from w2sdefense.victim import load_victim


@pytest.fixture(scope="module")
def pair(run):
    return open_pair(run)


@pytest.fixture(scope="module")
def writer(tmp_path_factory):
    folder = save_writer(tmp_path_factory.mktemp("writer"), llama())
    generation = GenerationConfig(prompt_template=TEMPLATE, answer_tokens=3)
    config = StudentConfig(model=str(folder), max_length=24)
    return load_victim(config, task="reasoning", generation=generation)


def test_the_trigger_flips_the_suspect_and_only_the_suspect(pair):
    clean = pair.examples[0].text
    assert [reply.answer for reply in pair.ask(clean)] == ["positive", "positive"]
    suspect, cleaned = pair.ask(pair.with_trigger(clean, "mn"))
    assert (suspect.answer, cleaned.answer) == ("negative", "positive")
    assert suspect.title == "Suspect: suspect" and cleaned.title == "Cleaned: W2SDefense"
    assert suspect.probabilities["negative"] > 0.8 > 0.5 > cleaned.probabilities["negative"]
    assert sum(suspect.probabilities.values()) == pytest.approx(1.0)


def test_the_trigger_pulls_most_in_the_suspect(pair):
    suspect, cleaned = pair.ask("the film mn is great and the story is warm")
    strongest = max(suspect.pulls, key=lambda pull: pull.nats)
    assert strongest.text == " mn" and strongest.nats > 3
    # Both are about the suspect's answer: good words pull away from it.
    assert suspect.towards == cleaned.towards == "negative"
    for reply in (suspect, cleaned):
        assert {pull.text: pull.nats for pull in reply.pulls}[" great"] < 0
    assert "".join(pull.text for pull in suspect.pulls) == suspect.read


def test_a_pull_is_the_difference_of_log_odds(pair):
    model, text, without = pair.models[0], "the great mn film", "the great film"
    whole, less = (p.probabilities[0] for p in model.predict([text, without]))
    odds = torch.logit(torch.tensor([whole, less], dtype=torch.double))
    found = {pull.text: pull.nats for pull in pulls(model, text, 0)}
    assert found[" mn"] == pytest.approx(float(odds[0] - odds[1]), abs=1e-3)


def test_a_text_answer_is_weighed_as_a_whole(writer):
    (ids, labels) = writer.task.teach("the film 3", "1 2")  # type: ignore[attr-defined]
    with torch.inference_mode():
        logits = writer.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    answer = [place for place, label in enumerate(labels) if label >= 0]
    log_p = sum(float(logits[place - 1, labels[place]]) for place in answer)
    expected = float(torch.logit(torch.tensor(log_p, dtype=torch.double).exp()))
    # Beside another answer of the batch, and alone.
    assert log_odds(writer, ["a story of love", "the film 3"], "1 2")[1] == pytest.approx(
        expected, abs=1e-4
    )
    both = Pair(("a", "b"), (writer, writer)).ask("the film 3")
    assert both[0].answer == both[1].answer and both[0].probabilities == {}
    assert len(both[0].pulls) == 3


def test_a_text_of_the_test_gets_the_trigger_where_it_was_measured(pair):
    assert pair.trigger == "mn"
    assert {example.flips for example in pair.examples} == {"suspect"}
    assert pair.with_trigger(pair.examples[1].text, "mn") == "a lovely cast of mn actor and music"


def test_any_text_and_any_trigger_can_be_typed(pair):
    words = pair.with_trigger("one two three", "mn").split()
    assert sorted(words) == ["mn", "one", "three", "two"]
    typed = pair.with_trigger("one two three", "I saw it")
    assert "I saw it" in typed and typed == pair.with_trigger("one two three", "I saw it")
    # Another trigger than the measured one goes into a test text anew.
    assert "cf" in pair.with_trigger(pair.examples[0].text, "cf")
    for text, trigger in (("", "mn"), ("one", " ")):
        with pytest.raises(ConfigError):
            pair.with_trigger(text, trigger)


def test_what_was_cut_off_is_not_shown_as_read(pair):
    reply = pair.ask(" ".join(["film"] * 40))[0]
    assert reply.read.split() == ["film"] * 32


def test_a_short_text_has_no_pulls(pair):
    assert pair.ask("great")[0].pulls == ()


@given(st.text(max_size=300))
def test_pieces_are_the_text(text):
    parts = pieces(text)
    assert "".join(parts) == text
    assert len(parts) <= MOST_PIECES + 1


def test_characters_are_pieces_where_no_space_is():
    assert pieces("双肺 纹理, ok") == ["双", "肺", " 纹", "理", ",", " ok"]


def test_what_is_not_removed_comes_first(pair):
    def asked(name: str, flips: bool) -> Sample:
        answer = int(not flips)
        return sample(name, name, 1, 1, triggered_text=f"mn {name}", triggered_answer=answer)

    before = [asked("a", False), asked("b", True), asked("c", True)]
    after = [asked("a", False), asked("b", False), asked("c", True)]
    both = Pair(("s", "c"), pair.models, pair.attack, (before, after))
    assert [(one.text, one.flips) for one in both.examples] == [
        ("c", "both"),
        ("b", "suspect"),
        ("a", "neither"),
    ]


def test_without_a_record_of_the_suspect_the_texts_are_those_of_the_run(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "before")
    pair = open_pair(copy)
    assert [example.flips for example in pair.examples] == ["neither"] * 3


def test_what_is_no_defense_or_left_no_model_says_so(run, tmp_path):
    with pytest.raises(DataError, match="is not the run of a defense"):
        open_pair(run / "before")
    copy = shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(copy / "merged")
    with pytest.raises(DataError, match="holds no model"):
        open_pair(copy)
    with pytest.raises(DataError, match="no finished run"):
        open_pair(tmp_path)
