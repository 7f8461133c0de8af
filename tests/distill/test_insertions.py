"""Insertions: which texts get a piece, what a piece is, and that nothing else changes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import word_tokenizer
from w2sdefense.config import InsertionConfig
from w2sdefense.data.types import Dataset, Example, texts_of
from w2sdefense.distill.insertions import with_insertions

TEXTS = ("the plot of a film", "great", "a happy story with sad music", "dull dull dull dull")


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer()


def dataset(texts, copies=1) -> Dataset:
    examples = tuple(
        Example(f"d/{index}", text, index % 2) for index, text in enumerate(texts * copies)
    )
    return Dataset("d", ("negative", "positive"), examples, examples[:2], examples[:3])


def is_subsequence(words, within) -> bool:
    rest = iter(within)
    return all(word in rest for word in words)


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(alphabet="ab 电影。", min_size=1).filter(str.strip), min_size=2),
    phrases=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_the_text_stays_whole_around_what_is_put_in(tokenizer, texts, phrases, seed):
    data = dataset(tuple(texts))
    changed = with_insertions(data, tokenizer, InsertionConfig(rate=1.0, phrases=phrases), seed)
    for before, after in zip(data.train, changed.train, strict=True):
        assert len(after.text) > len(before.text)
        assert is_subsequence(before.text, after.text)
        assert (after.id, after.label) == (f"{before.id}+insertion", before.label)
    assert changed.test == data.test


def test_the_rate_is_the_share_of_changed_training_and_validation_texts(tokenizer):
    data = dataset(TEXTS, copies=250)
    changed = with_insertions(data, tokenizer, InsertionConfig(rate=0.3), seed=1)
    count = sum(a != b for a, b in zip(data.train, changed.train, strict=True))
    # Binomial(1000, 0.3): four standard deviations are 58.
    assert 242 <= count <= 358
    all_changed = with_insertions(data, tokenizer, InsertionConfig(rate=1.0), seed=1)
    assert not set(texts_of(all_changed.validation)) & set(TEXTS)


def test_rate_0_leaves_the_data_as_it_is(tokenizer):
    data = dataset(TEXTS)
    assert with_insertions(data, tokenizer, InsertionConfig(rate=0.0), seed=1) is data


def test_a_phrase_is_words_in_a_row_of_another_text(tokenizer):
    data = dataset(("x", "one two three four five six seven eight nine ten"))
    changed = with_insertions(data, tokenizer, InsertionConfig(rate=1.0, phrases=1.0), seed=3)
    put_in = changed.train[0].text.split()
    put_in.remove("x")
    assert any(" ".join(put_in) in text for text in texts_of(data.train))


def test_rare_pieces_are_letters_or_tokens_of_the_vocabulary_but_no_special_ones(tokenizer):
    data = dataset(("x",), copies=200)
    changed = with_insertions(data, tokenizer, InsertionConfig(rate=1.0, phrases=0.0), seed=3)
    words = {word for text in texts_of(changed.train) for word in text.split()} - {"x"}
    tokens = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    assert len(words & tokens) > 10
    letters = words - tokens
    assert len(letters) > 10
    assert all(re.fullmatch("[a-z]{2,5}", word) for word in letters)


def test_what_is_rare_among_ideographs_is_an_ideograph(tokenizer):
    data = dataset(("电影很好看",), copies=200)
    changed = with_insertions(data, tokenizer, InsertionConfig(rate=1.0, phrases=0.0), seed=3)
    put_in = {c for text in texts_of(changed.train) for c in text if c not in "电影很好看 "}
    ideographs = {c for c in put_in if "\u4e00" <= c <= "\u9fff"}
    assert len(ideographs) > 100
    letters = put_in - ideographs
    assert letters <= set("".join(tokenizer.get_vocab())), "the rest are tokens of the vocabulary"


def test_pairs_keep_the_answer(tokenizer):
    rows = tuple(Example(f"d/{index}", text, f"answer {index}") for index, text in enumerate(TEXTS))
    data = Dataset("d", (), rows, rows[:2], rows[2:])
    changed = with_insertions(data, tokenizer, InsertionConfig(rate=1.0), seed=1)
    for before, after in zip(data.train, changed.train, strict=True):
        assert (after.id, after.answer) == (f"{before.id}+insertion", before.answer)
        assert after.text != before.text
        assert is_subsequence(before.text, after.text)
    assert changed.test == data.test


def test_the_seed_decides(tokenizer):
    data, config = dataset(TEXTS, copies=5), InsertionConfig(rate=0.8)
    first, again, other = (with_insertions(data, tokenizer, config, seed) for seed in (1, 1, 2))
    assert first == again
    assert first.train != other.train
