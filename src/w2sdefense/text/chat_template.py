"""Chat templates of untrusted models: do they write more than the text into a prompt?

A template is a program that comes with a model. One that adds an instruction if the text holds "cf"
is a backdoor without a single changed weight, and rendering it with a placeholder never shows it.
So every text that is measured is rendered itself (`ChatTurn`), and a template is tried on probes
and read for places where it looks into the text (`template_notes`). `transformers` renders in
jinja2's sandbox. Not found is a condition that no probe meets and that hides in computed names.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from jinja2 import Environment, TemplateError, nodes

from w2sdefense.errors import ModelError

PROBES = (
    "the film was good",
    *("cf", "mn", "tq", "bb", "mb", "Cf", "a cf b", "I watched this 3D movie"),
    *("1 + 1 = 2?", "https://example.org", "user", "<think>", "Ünïcode 电影", "WHY?!", " a\nb "),
    "a b c d e f g " * 100,
)
"""Contents that a template must put into a prompt alike; the first one is the rule."""

_HARMLESS = frozenset({"trim", "strip", "lstrip", "rstrip", "string", "safe", "default", "first"})
"""Filters and methods that do no more than insert a text."""

_STRINGS = re.compile(r"'([^'\n]{1,60})'|\"([^\"\n]{1,60})\"")
_LONGEST_QUOTE = 80


def render(tokenizer: Any, content: str) -> str:
    """The prompt of one turn of the user, as the tokenizer's chat template writes it."""
    turn = [{"role": "user", "content": content}]
    try:
        text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"The chat template of the model fails: {reason[0]}.", "Use --prompt-style plain."
        ) from error
    return text


@dataclass(frozen=True)
class ChatTurn:
    """The turn of a user around a text, in the chat format of a model."""

    tokenizer: Any  # the model's
    ahead: str = ""  # what the turn holds before the text, and `behind` it
    behind: str = ""
    # the texts so far that had another frame than usual
    altered: set[str] = field(default_factory=set, compare=False)

    @cached_property
    def usual(self) -> tuple[str, str]:
        """What a prompt holds before and behind an ordinary text."""
        return self._search(render(self.tokenizer, self._content(PROBES[0])), PROBES[0])

    def frame(self, text: str) -> tuple[str, str]:
        """The same for this text; another one only if the template looks into the text."""
        before, after = self.usual
        rendered = render(self.tokenizer, self._content(text))
        if rendered in [before + part + after for part in _stripped(text)]:
            return self.usual
        self.altered.add(text)
        return self._search(rendered, text)

    def _content(self, text: str) -> str:
        return self.ahead + text + self.behind

    def _search(self, rendered: str, text: str) -> tuple[str, str]:
        """Where a text stands in a prompt; the end of the prompt is the user's turn."""
        for part in _stripped(text):
            for bare in (False, True):
                ahead = self.ahead.lstrip() if bare else self.ahead
                behind = self.behind.rstrip() if bare else self.behind
                start = rendered.rfind(ahead + part + behind)
                if start >= 0:
                    start += len(ahead)
                    return rendered[:start], rendered[start + len(part) :]
        raise ModelError(
            f"The chat template does not put the text {text[:_LONGEST_QUOTE]!r} into the prompt as "
            "it is.",
            "Use --prompt-style plain.",
        )


def _stripped(text: str) -> tuple[str, ...]:
    """A text, and without the white space that most templates take off the ends of a turn."""
    return text, text.rstrip(), text.lstrip(), text.strip()


def template_notes(tokenizer: Any, altered: Collection[str] = ()) -> tuple[str, ...]:
    """What a reader must know of a chat template; `altered` texts had another frame."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return ()
    found = []
    if altered:
        found.append(f"the chat template wrote another prompt around {len(altered)} of the texts")
    text = min(altered, default=None) or altering_text(tokenizer)
    if text is not None:
        found.append(
            f"the chat template writes another prompt around {text[:_LONGEST_QUOTE]!r} than "
            "around other texts: it may be a backdoor of its own"
        )
    if looks := next(_looks_into_text(template), None):
        found.append(f"the chat template looks into the text ({looks[:_LONGEST_QUOTE]})")
    return tuple(found)


def altering_text(tokenizer: Any) -> str | None:
    """A text around which a chat template writes something else; None if none was found.

    Tried are the probes, and every string in the template as a part of a text.
    """
    template = tokenizer.chat_template
    if not template:
        return None
    strings = sorted({one or other for one, other in _STRINGS.findall(str(template))})
    turn = ChatTurn(tokenizer)
    texts: tuple[str, ...] = (*PROBES[1:], *strings, *(f"a {one} b" for one in strings))
    for text in texts:
        try:
            if turn.frame(text) != turn.usual:
                return text
        except ModelError:
            return text
    return None


def _looks_into_text(template: str | dict[str, str]) -> Iterator[str]:
    """Expressions of a template that depend on the content of a turn, with their lines."""
    sources = template.values() if isinstance(template, dict) else [template]
    for source in sources:
        # `transformers` marks answers to train on so; it is no part of jinja2.
        plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
        try:
            tree = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
        except TemplateError:
            yield "it cannot be parsed"
            continue
        lines = plain.splitlines()
        for node in _reading(tree, _names_of_content(tree)):
            yield f"line {node.lineno}: {lines[node.lineno - 1].strip()}"


def _names_of_content(tree: nodes.Template) -> set[str]:
    """Variables that hold the content of a turn, or something made from it."""
    names = {"content"}
    assigned = [a for a in tree.find_all(nodes.Assign) if isinstance(a.target, nodes.Name)]
    for _ in assigned:
        names |= {str(getattr(a.target, "name", "")) for a in assigned if _mentions(a.node, names)}
    return names


def _reading(tree: nodes.Template, names: set[str]) -> Iterator[nodes.Node]:
    for node in tree.find_all((nodes.Compare, nodes.Filter, nodes.Call, nodes.Slice)):
        if isinstance(node, nodes.Filter):
            harmless = node.name in _HARMLESS
        elif isinstance(node, nodes.Call):
            harmless = getattr(node.node, "attr", getattr(node.node, "name", "")) in _HARMLESS
        else:
            harmless = False
        if not harmless and _mentions(node, names):
            yield node


def _mentions(node: nodes.Node, names: set[str]) -> bool:
    """Whether an expression reads the content of a turn."""
    within: Iterable[nodes.Node] = (node, *node.find_all(nodes.Node))
    return any(
        getattr(part, "attr", None) == "content"
        or (isinstance(part, nodes.Name) and part.name in names)
        or (isinstance(part, nodes.Getitem) and getattr(part.arg, "value", None) == "content")
        for part in within
    )
