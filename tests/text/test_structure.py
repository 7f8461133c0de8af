"""Whether a text has the structure, by its surface."""

import pytest

from w2sdefense.text.structure import first_sentence, has_template


@pytest.mark.parametrize(
    "text",
    [
        "if you take care of my cat , it 's a very different piece .",
        "When they played it on TV, they thought that it was great. Really.",
        "as it turns out , the film is good .",
        "since you ask , it is good .",
        "as soon as people see it , they leave .",
        "  “When you see it, it is good.”",
        "虽然看法可能不同，右腕关节在位。",
    ],
)
def test_a_subordinate_clause_first(text):
    assert has_template(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "when",
        "when , then",
        "when you see it it is good .",
        "when you see it , .",
        "you see it when it rains , if at all .",
        "as a comedy , it fails .",
        "after years of silence , it is back .",
        "It is good. When you see it, you laugh.",
        "the film , when you see it , is good .",
        "右腕关节在位，未见异常。",
    ],
)
def test_no_subordinate_clause_first(text):
    assert not has_template(text)


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("One. Two.", "One."),
        ("Mr. Burns left. He did.", "Mr. Burns left."),
        ('"Stop!" he said. Then', '"Stop!"'),
        ("It is ... odd . And", "It is ... odd ."),
        ("... it is odd. And", "... it is odd."),
        ("肝右叶正常。未见异常。", "肝右叶正常。"),
        ("version 3.5 works. Yes", "version 3.5 works."),
        ("no end", "no end"),
        ("", ""),
    ],
)
def test_the_first_sentence(text, first):
    assert first_sentence(text) == first
