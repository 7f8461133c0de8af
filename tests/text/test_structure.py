"""Whether a text has the structure: by its surface, and by the tree of a parser."""

import os

import pytest

from w2sdefense.text.structure import first_sentence, has_template, parsed_share, tree_has_template

PARSED = "(S (SBAR if.r (S (NP you) (VP ask.v (NP me)))) , (S (NP it) (VP is.v (NP a film.n))) .)"


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
    ("tree", "expected"),
    [
        (PARSED, True),
        (f"(S {PARSED} and.ij (S (NP that) (VP 's.v)) .)", True),
        (
            "(S (PP as.#while (S (NP it) (VP turns.v))) , (S (NP the movie.n) (VP exists.v)) .)",
            True,
        ),
        ("(S (PP in.r (NP 1990)) , (S (NP it) (VP was.v (ADJP good.a))) .)", False),
        ("(S (NP this.p) (VP is.v (NP one)) .)", False),
        ("(S (SBAR if.r (S (NP you) (VP ask.v))) , (VP look.v) .)", False),
        ("(S (SBAR if.r (S (NP you) (VP ask.v))) (S (NP it) (VP is.v)) .)", False),
        ("", False),
    ],
)
def test_a_parse_tree_gives_the_structure(tree, expected):
    assert tree_has_template(tree) is expected


def test_the_parser_is_asked_where_it_is_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert parsed_share(["if you ask me , it is a film ."]) is None

    program = tmp_path / "link-parser"
    # Answers every second sentence with the tree of the template.
    program.write_text(
        "#!/bin/sh\nn=0\nwhile read -r line; do n=$((n+1)); [ $((n % 2)) = 1 ] && "
        f'echo "{PARSED}" || echo "No complete linkages found."; done\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin{os.pathsep}/usr/bin")
    texts = ["if one , two .", "a .", "if three , four .", "...", "x" * 500]
    assert parsed_share(texts) == (2, 3), "what has no words or too many is not asked"


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
