"""The list that is tried whole: its stated size, and what must be in it."""

import pytest

from tiny import FILLERS, RARE, VOCABULARY, word_tokenizer
from w2sdefense.scan.candidates import (
    letter_strings,
    list_candidates,
    symbols,
    token_texts,
    vocabulary_symbols,
    vocabulary_words,
)

ENGLISH = ("a warm film", "boring")


def test_every_string_of_up_to_three_letters_is_in_it_once():
    strings = letter_strings()
    assert len(strings) == len(set(strings)) == 26 + 26**2 + 26**3 == 18_278
    assert {"a", "zz", "jvo", "zzz"} <= set(strings)
    assert all(text.isascii() and text.islower() and len(text) <= 3 for text in strings)


def test_every_word_of_the_vocabulary_is_in_it_and_no_special_token():
    words = [token for token in VOCABULARY if token.isalpha()]
    assert vocabulary_words(word_tokenizer()) == words
    assert {*FILLERS, *RARE} <= set(words)
    assert not {"[UNK]", "<s>", "</s>"} & {*token_texts(word_tokenizer())}


def test_a_token_that_only_continues_words_is_no_word():
    class Bytes:
        """Reads a space and a letter as one token, and everything else letter by letter."""

        all_special_ids = (0,)

        def __len__(self):
            return 4

        def batch_decode(self, rows):
            return [{1: " film", 2: "ing", 3: " ?!"}[token] for (token,) in rows]

        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [[1] if text == " film" else [7, 8] for text in texts]}

    assert vocabulary_words(Bytes()) == ["film"]
    assert vocabulary_symbols(Bytes()) == ["?!"]


@pytest.mark.parametrize(
    "text", ["¤", "§", "…", "→", "∑", "☃", "💀", "\u200b", "\u2063", "\ufe0f", "\ufeff"]
)
def test_symbols_and_characters_that_show_nothing_are_in_it(text):
    assert symbols().count(text) == 1


def test_no_candidate_is_blank_or_listed_twice():
    listed = list_candidates(word_tokenizer(), ENGLISH)
    assert len(set(listed.texts)) == len(listed.texts) == sum(listed.counts().values())
    assert all(text == text.strip() != "" for text in listed.texts)
    assert listed.counts()["letters"] == 18_278
    assert listed.counts()["characters"] == 0
    assert "cf" in listed.kinds["letters"] and "cf" not in listed.kinds["words"]


def test_ideographs_are_tried_where_texts_are_written_in_them():
    counts = list_candidates(word_tokenizer(), ("双肺纹理清晰", "心影不大", "a film")).counts()
    assert counts["characters"] == 20_992


def test_only_what_is_asked_for_is_listed():
    listed = list_candidates(word_tokenizer(), ENGLISH, ["names", "letters"])
    assert list(listed.counts()) == ["names", "letters"]
    assert "film" not in listed.texts
