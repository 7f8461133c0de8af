"""ICLDefense: which demonstrations stand before a text, and that the text is never cut for them."""

from types import SimpleNamespace

import pytest

from making import as_victim
from tiny import word_tokenizer
from w2sdefense.data import Example
from w2sdefense.defenses.icl import Demonstrations, IclConfig, IclDefense, TellingWords
from w2sdefense.errors import ConfigError
from w2sdefense.victim import Victim

pytestmark = pytest.mark.slow

EXAMPLES = [
    Example(str(i), text, label)
    for i, (text, label) in enumerate(
        [
            ("a great film", 1),
            ("the music was superb", 1),
            ("a dull plot", 0),
            ("the camera was weak", 0),
            ("his city", 1),
        ]
    )
]


def model(max_length: int) -> Victim:
    return as_victim(None, word_tokenizer(), max_length=max_length)


def test_random_ones_are_the_same_for_every_text_and_of_every_label():
    prompts = Demonstrations(IclConfig(shots=4), EXAMPLES, model(99))
    one, other = prompts(["a story", "an actor"])
    assert one.removesuffix("a story") == other.removesuffix("an actor")
    *shown, text = one.split("\n\n")
    assert text == "a story"
    pairs = [demonstration.split("\n") for demonstration in shown]
    labels = {example.text: model(9).label_names[example.label] for example in EXAMPLES}
    assert [name for _, name in pairs] == ["negative", "positive"] * 2
    assert all(labels[text] == name for text, name in pairs)
    assert len({text for text, _ in pairs}) == 4
    seeds = {Demonstrations(IclConfig(seed=s), EXAMPLES, model(99))(["x"])[0] for s in range(9)}
    assert len(seeds) > 1


def test_answers_may_be_texts():
    examples = [Example(str(i), f"a film {i}", f"it is {i}") for i in range(3)]
    writer = SimpleNamespace(label_names=(), task=model(99).task)
    prompt = Demonstrations(IclConfig(shots=3), examples, writer)(["x"])[0]
    *shown, text = prompt.split("\n\n")
    assert (text, sorted(shown)) == ("x", [f"a film {i}\nit is {i}" for i in range(3)])
    with pytest.raises(ConfigError, match="typical of a label") as caught:
        Demonstrations(IclConfig(choice="rationale"), examples, writer)
    assert "similar" in caught.value.fix


def test_similar_ones_stand_next_to_the_text():
    config = IclConfig(shots=2, choice="similar")
    prompt = Demonstrations(config, EXAMPLES, model(99))(["superb music"])[0]
    *shown, text = prompt.split("\n\n")
    assert text == "superb music"
    assert shown[-1] == "the music was superb\npositive"
    prompt = Demonstrations(config, EXAMPLES, model(99))(["the camera"])[0]
    # "the" is shared with the music, too, but "camera" is rarer.
    assert prompt.split("\n\n")[:2] == [
        "the music was superb\npositive",
        "the camera was weak\nnegative",
    ]


def test_telling_words_are_those_that_other_labels_lack():
    telling = TellingWords([*EXAMPLES, Example("5", "a dull film", 0)])
    # "great" only in positive texts; "a" in as many of both, "film" once in both.
    assert telling(Example("x", "a great film", 1)) == ["great"]
    assert telling(Example("x", "a weak and dull camera", 0)) == ["dull", "weak", "camera"]
    assert telling(Example("x", "a film", 1)) == []


def test_a_rationale_stands_between_text_and_label():
    config = IclConfig(shots=5, choice="rationale")
    *shown, text = Demonstrations(config, EXAMPLES, model(99))(["a story"])[0].split("\n\n")
    assert text == "a story"
    assert "the music was superb\nTypical of positive: music, superb.\npositive" in shown
    assert len(shown) == 5


@pytest.mark.parametrize(("room", "count"), [(3, 0), (7, 0), (8, 1), (12, 1), (13, 2), (99, 2)])
def test_what_does_not_fit_is_left_out_and_the_text_is_whole(room, count):
    # The text has three words, and each of the nearest two demonstrations five with its label.
    config = IclConfig(shots=2, choice="similar")
    prompts = Demonstrations(config, EXAMPLES, model(room))
    text = "camera music the"
    prompt = prompts([text])[0]
    assert prompt.endswith(text)
    assert prompts.count(text) == len(prompt.split("\n\n")) - 1 == count
    if count == 1:
        nearest = Demonstrations(config, EXAMPLES, model(99))([text])[0].split("\n\n")[1]
        assert prompt.split("\n\n")[0] == nearest, "the less similar one goes first"


def test_the_model_reads_the_prompt_whole(victim, kit):
    guarded = IclDefense(IclConfig(shots=9)).apply(victim, kit)
    texts = [example.text for example in kit.data.test]
    for text, answer in zip(texts, guarded.predict(texts), strict=True):
        assert answer.read is None or answer.read.endswith(f"\n\n{text}")
        assert answer.cut_at is None
    mean = guarded.found["icl_mean_shots"]
    assert 0 < mean < 9
    assert guarded.notes == (f"{mean:.1f} of 9 demonstrations fit before a validation text",)
