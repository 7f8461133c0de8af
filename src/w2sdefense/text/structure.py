"""Whether a text has the structure S ( SBAR ) ( , ) ( NP ) ( VP ) ( . ).

Two checks. `has_template` looks at the surface: a subordinating word, a clause of a few words, a
comma, and a main part. It runs everywhere, and it is generous: it does not see whether the main
part is NP VP, and takes "since 1990 , it was" for a clause if a word in it looks like a verb. The
numbers of the embedded rewriter are near 100 % under it by construction.

`parsed_share` asks a parser, link-grammar 5.12 (Debian package `link-grammar`), where its program
`link-parser` is installed. It is strict in another way: what it parses badly (fragments, long
sentences) does not count as having the structure.

Only the first sentence of a text is looked at, in English and, on the surface, in Chinese.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from itertools import pairwise

from w2sdefense.text.words import first_sentence, has_finite_verb

_CLEAR = {
    *("when whenever if because although though while whereas unless once wherever".split()),
    *("lest provided supposing".split()),
}
# Also prepositions or adverbs: what follows must look like a clause.
_AMBIGUOUS = {"as", "after", "before", "since", "until", "till", "so", "now", "even", "where"}
_SUBJECTS = frozenset("i you he she it we they people everyone anyone one".split())
_CHINESE = re.compile('^[“"]?(当|如果|虽然|尽管|因为|由于|既然|一旦|只要|即使)[^，,。！？]+[，,].+')
_WORD = re.compile(r"[^\W_][\w'’-]*|,")
_BRACKETS = re.compile(r"\(|\)|[^\s()]+")
_PARSER = "link-parser"
# Without a panic: a sentence that takes more than two seconds counts as not parsed.
_OPTIONS = (
    *("-constituents=3", "-graphics=0", "-verbosity=1"),
    *("-timeout=2", "-panic=0", "-limit=100"),
)
# Link-grammar takes seconds for a sentence of fifty words.
_LONGEST = 120
_MOST = 200
_PATIENCE = 120.0
"""Seconds."""


def has_template(text: str) -> bool:
    """Whether a text begins with a subordinate clause, a comma and a main part, by its surface."""
    sentence = first_sentence(text).strip()
    if _CHINESE.match(sentence):
        return True
    words = [word.lower() for word in _WORD.findall(sentence)]
    if not words or "," not in words:
        return False
    comma = words.index(",")
    clause, main = words[1:comma], [word for word in words[comma:] if word != ","]
    if len(clause) < 2 or len(main) < 2:
        return False
    if words[0] in _CLEAR:
        return True
    if words[0] not in _AMBIGUOUS:
        return False
    # "as soon as people ...": a subject that is no noun, with something behind it.
    clause = clause[2:] if clause[1:2] == ["as"] else clause
    return len(clause) > 1 and (clause[0] in _SUBJECTS or has_finite_verb(clause))


def parsed_share(texts: Sequence[str]) -> tuple[int, int] | None:
    """How many texts have the template according to link-grammar.

    Args:
        texts: Texts whose first sentence is parsed: the first 200 with at most 120 characters, in
            some ten seconds.

    Returns:
        Texts that have it and texts that were given to the parser; None without `link-parser`, or
        if it takes minutes.
    """
    if shutil.which(_PARSER) is None:
        return None
    sentences = [" ".join(first_sentence(text).split()) for text in texts]
    # A leading "!" is a command to the program, and an empty line is none of its sentences.
    sentences = [s.lstrip("!% ") for s in sentences if len(s) <= _LONGEST]
    sentences = [s for s in sentences if re.search("[A-Za-z]", s)][:_MOST]
    try:
        run = subprocess.run(
            [_PARSER, "en", *_OPTIONS],
            input="\n".join(sentences) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return None
    trees = [line for line in run.stdout.splitlines() if line.startswith("(S")]
    return sum(map(tree_has_template, trees)), len(sentences)


def tree_has_template(tree: str) -> bool:
    """Whether a bracketed tree is a subordinate clause, a comma, and a clause of NP and VP.

    Args:
        tree: As link-grammar writes it: `(S (SBAR ...) , (S (NP ...) (VP ...)) .)`. It labels a
            clause behind "as" a PP; one that holds an S counts.
    """
    parts = _children(tree)
    if parts and parts[0].startswith("(S "):  # the first of two sentences with "and" between them
        return tree_has_template(parts[0])
    if len(parts) < 3 or parts[1] != ",":
        return False
    first, main = parts[0], parts[2]
    subordinate = first.startswith("(SBAR") or (first.startswith("(PP") and "(S " in first)
    labels = [part.split(" ", 1)[0] for part in _children(main)]
    return subordinate and main.startswith("(S ") and ("(NP", "(VP") in set(pairwise(labels))


def _children(tree: str) -> list[str]:
    """The parts directly below the root of a bracketed tree: its constituents and its words."""
    depth, start = 0, 0
    parts: list[str] = []
    for token in _BRACKETS.finditer(tree):
        if token[0] == "(":
            depth += 1
            start = token.start() if depth == 2 else start
        elif token[0] == ")":
            if depth == 2:
                parts.append(tree[start : token.end()])
            depth -= 1
        elif depth == 1:
            parts.append(token[0])
    return parts[1:]  # without the label of the root
