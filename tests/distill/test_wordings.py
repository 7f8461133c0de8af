"""Wordings: what is taken for a prompt, and what is left of it in the texts that are changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.config import WordingConfig
from w2sdefense.data.types import Dataset, Example, texts_of
from w2sdefense.distill.wordings import Frame, common_frame, with_wordings

TEXTS = ("the plot of a film", "great", "a happy story with sad music", "the end is dull")
PROMPT = "This sentence has a <mask> sentiment: {text}"

inner_texts = st.lists(
    st.lists(st.sampled_from(("good", "bad", "plot", "dull", "fun")), min_size=1).map(" ".join),
    min_size=2,
    max_size=12,
)


def dataset(texts, copies=1) -> Dataset:
    examples = tuple(
        Example(f"d/{index}", text, index % 2) for index, text in enumerate(texts * copies)
    )
    return Dataset("d", ("negative", "positive"), examples, examples[:2], examples[:3])


def asked(prompt: str, texts=TEXTS) -> tuple[str, ...]:
    return tuple(prompt.format(text=text) for text in texts)


@pytest.mark.parametrize(
    ("prompt", "before", "after"),
    [
        (PROMPT, "This sentence has a <mask> sentiment:", ""),
        ("{text} It was <mask> .", "", "It was <mask> ."),
        ("Review: {text} Sentiment:", "Review:", "Sentiment:"),
        ("这句话的情感是：{text}", "这 句 话 的 情 感 是 ：", ""),
    ],
)
def test_the_prompt_is_what_all_texts_begin_and_end_with(prompt, before, after):
    texts = asked(prompt)
    frame = common_frame(texts)
    assert frame == Frame(tuple(before.split()), tuple(after.split()))
    assert tuple(map(frame.inner, texts)) == TEXTS


@pytest.mark.parametrize(
    "texts",
    [
        (),
        TEXTS,
        asked("{text} ."),
        asked("the {text}"),
        ("one and the same text",) * 5,
        ("only the prompt", "only the prompt and more"),
    ],
    ids=["none", "different", "full stop", "one word", "copies", "nothing in it"],
)
def test_what_is_no_prompt(texts):
    assert common_frame(texts) is None
    data = dataset(texts)
    assert with_wordings(data, WordingConfig(rate=1.0), seed=1) is data


@given(texts=inner_texts, before=st.integers(0, 4), after=st.integers(0, 4))
def test_the_text_stays_within_any_prompt(texts, before, after):
    words = [*(f"b{i}" for i in range(before)), "{text}", *(f"a{i}" for i in range(after))]
    data = dataset(asked(" ".join(words), texts))
    changed = with_wordings(data, WordingConfig(rate=1.0), seed=1)
    frame = common_frame(texts_of(data.train))
    assert (changed is data) == (frame is None)
    if frame is None:
        return
    for old, new in zip(data.train, changed.train, strict=True):
        assert (new.id, new.label) == (f"{old.id}+wording", old.label)
        # What only some of the texts say is still there, and the prompt's sides are apart.
        assert f" {frame.inner(old.text)} " in f" {new.text} "
        sides = "".join(word[0] for word in new.text.split() if word[1:].isdigit())
        assert sides == "".join(sorted(sides, reverse=True))
    assert changed.test == data.test


def test_the_words_of_the_prompt_come_in_another_order_fewer_and_with_others():
    data = dataset(asked(PROMPT), copies=100)
    changed = with_wordings(data, WordingConfig(rate=1.0), seed=1)
    words = PROMPT.removesuffix(" {text}").split()
    vocabulary = {*words, *" ".join(TEXTS).split()}
    seen = []
    for text, inner in zip(texts_of(changed.train), TEXTS * 100, strict=True):
        front = text.removesuffix(inner).split()
        assert set(front) <= vocabulary
        assert len(front) <= len(words) + 2
        seen.append(tuple(word for word in front if word in words))
    assert len(set(seen)) > 100
    assert any(len(front) < len(words) for front in seen)
    assert any(sorted(front) == sorted(words) and list(front) != words for front in seen)


def test_the_rate_and_the_seed_decide():
    data = dataset(asked(PROMPT), copies=250)
    first, again, other = (
        with_wordings(data, WordingConfig(rate=0.3), seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first.train != other.train
    count = sum(row.id.endswith("+wording") for row in first.train)
    # Binomial(1000, 0.3): four standard deviations are 58.
    assert 242 <= count <= 358
    assert with_wordings(data, WordingConfig(rate=0.0), seed=1) is data
