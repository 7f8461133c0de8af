"""ICLDefense: which demonstrations stand before a text, and that the text is never cut for them."""

from types import SimpleNamespace

import pytest

from making import as_victim
from tiny import word_tokenizer
from w2sdefense.data import Example
from w2sdefense.defenses.icl import Demonstrations, IclConfig, IclDefense
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


@pytest.mark.parametrize(("room", "count"), [(3, 0), (7, 0), (8, 1), (12, 1), (13, 2), (99, 2)])
def test_what_does_not_fit_is_left_out_and_the_text_is_whole(room, count):
    # The text has three words, and each of the two demonstrations five with its label.
    five = [Example("0", "the camera was weak", 0), Example("1", "the music was superb", 1)]
    prompts = Demonstrations(IclConfig(shots=2), five, model(room))
    text = "camera music the"
    *shown, last = prompts([text])[0].split("\n\n")
    assert (last, len(shown)) == (text, count)
    if count == 1:
        assert shown == ["the music was superb\npositive"], "the first one goes first"


def test_the_model_reads_the_prompt_whole(victim, kit):
    guarded = IclDefense(IclConfig(shots=9)).apply(victim, kit)
    texts = [example.text for example in kit.data.test]
    for text, answer in zip(texts, guarded.predict(texts), strict=True):
        assert answer.read is None or answer.read.endswith(f"\n\n{text}")
        assert answer.cut_at is None
    mean = guarded.found["icl_mean_shots"]
    assert 0 < mean < 9
    assert guarded.notes == (f"{mean:.1f} of 9 demonstrations fit before a validation text",)
