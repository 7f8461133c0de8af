import random
import string
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.data.splits import (
    drop_duplicates,
    known_texts,
    near_duplicates,
    near_notes,
    normal_form,
)
from w2sdefense.data.types import Dataset, Example

TEXT = "A café can't hide its “fine” film: 5 stars, they say"

DISGUISES = [
    TEXT.upper(),
    TEXT.lower(),
    TEXT.title(),
    TEXT + ".",
    TEXT + " !!!",
    f'"{TEXT}"',
    f"'{TEXT}'",
    f"«{TEXT}»",
    f"``{TEXT}''",
    f"({TEXT})",
    TEXT.replace("“", '"').replace("”", '"'),
    TEXT.replace("'", "’"),
    TEXT.replace("'", "`"),
    TEXT.replace("'", "\u00b4"),
    TEXT.replace(",", " ,").replace(":", " :"),
    unicodedata.normalize("NFD", TEXT),
    TEXT.replace(" ", "\u00a0"),
    TEXT.replace("fi", "\ufb01"),
    TEXT.replace("film", "fi\u200blm"),
    "\ufeff" + TEXT.replace(" ", " \u2060"),
    TEXT.replace("film", "fi\u00adlm").replace("5", "\uff15"),
]


MORE_DISGUISES = [
    TEXT.replace("'", "&#39;").replace("“", "&quot;").replace("”", "&quot;"),
    TEXT.replace("'", "&amp;#x27;").replace(" ", "&nbsp;"),
    TEXT.replace("é", "&eacute;"),
    f"<p>{TEXT}<br /></p>",
    TEXT.replace(" ", "<br/> ").replace("5", '<a href="x">5</a>'),
    f"&lt;b&gt;{TEXT}&lt;/b&gt;",
    f"-LRB- {TEXT} -RRB-",
    TEXT.replace("film", "film\ufe0f\U000e0101"),
    TEXT.replace("film", "fi\u180blm\u2800"),
    TEXT.replace("film", "\U000e0066film"),
    TEXT.replace("film", "ｆｉｌｍ"),
]


@pytest.mark.parametrize("text", MORE_DISGUISES)
def test_html_and_what_shows_nothing_disguise_no_text(text):
    assert normal_form(text) == normal_form(TEXT)


def test_21_of_21_disguised_test_texts_are_known_and_left_out_of_training():
    trained = [Example(f"train/{i}", text, 0) for i, text in enumerate([*DISGUISES, "another"])]
    tested = [Example("test/0", TEXT, 0)]
    splits, dropped = drop_duplicates({"train": trained, "validation": [], "test": tested})
    assert [example.text for example in splits["train"]] == ["another"]
    assert dropped == {"train text also in validation or test": 21}
    assert known_texts(trained, tested) == 21


NUMBERS = "Rated 5/2, 3.5 and 4 - 1 by all"


@pytest.mark.parametrize(
    "text",
    [
        "\u200b".join(NUMBERS),
        "\ufe0f".join(NUMBERS),
        "".join(f"{c}\u0336" for c in NUMBERS),
        NUMBERS.translate({code: code + 0xFEE0 for code in range(33, 127)}),
    ],
)
def test_numbers_are_read_whatever_stands_between_their_digits(text):
    assert normal_form(text) == normal_form(NUMBERS) != normal_form(NUMBERS.replace("/", "-"))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("a fine film", "a fine, film too"),
        ("5 - 3", "5 / 3"),
        ("5-3", "53"),
        ("3.5 stars", "35 stars"),
        ("5 + 3", "5 * 3"),
        ("???", "!!!"),
        ("की", "का"),
        ("good 👍", "good 👎"),
        ("resume", "résumé"),
        ("$5", "€5"),
        ("5 &minus; 3", "5 / 3"),
        ("if a < b", "if a > b"),
        ("say <cf> now", "say now"),
    ],
)
def test_texts_that_say_different_things_stay_different(left, right):
    assert normal_form(left) != normal_form(right)


@given(st.text())
def test_the_normal_form_is_stable(text):
    form = normal_form(text)
    if any(character.isalnum() for character in text):
        assert normal_form(text + "\u200b") == form
        assert normal_form(f"“{text.strip()}”") == form


def sentence(rng: random.Random, words: int) -> list[str]:
    return ["".join(rng.choices(string.ascii_lowercase, k=5)) for _ in range(words)]


@pytest.mark.parametrize("words", [25, 600])
def test_a_changed_word_is_found_and_another_text_is_not(words):
    rng = random.Random(0)
    trained = [sentence(rng, words) for _ in range(150)]
    tested = [[*text[:9], "changed", *text[10:]] for text in trained[:50]]
    tested += [sentence(rng, words) for _ in range(50)]
    found = near_duplicates(tuple(map(" ".join, tested)), tuple(map(" ".join, trained)))
    assert all(place == other for place, other in found)
    # At 0.8 (25 words) a sketch may miss some; it never invents one.
    assert len(found) >= 45


def test_equal_and_short_texts_are_no_near_duplicates():
    texts = ("", "a", "A fine film, all in all!", "ab")
    assert near_duplicates(texts, ("", "b", "a fine film all in all", "abc")) == ()


def test_a_note_counts_near_duplicates_and_names_a_pair():
    text = "one of the most beautiful films that anyone has made in years"
    test = (Example("test/0", "nothing like it", 0), Example("test/1", text, 0))
    train = (Example("train/0", "other", 0), Example("train/1", text.upper(), 0))
    near = Example("train/2", text + " now", 0)
    dataset = Dataset("films", ("bad",), train, (), test)
    assert near_notes(dataset) == ()
    assert near_notes(replace(dataset, train=(*train, near))) == (
        "1 of 2 held-out texts nearly repeat a training text (test/1 is like train/2)",
    )
    assert near_notes(replace(dataset, train=(), validation=(near,))) == (
        "1 of 2 test texts nearly repeat a validation text (test/1 is like train/2)",
    )
