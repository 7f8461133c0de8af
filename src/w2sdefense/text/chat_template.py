"""Renders chat templates of untrusted models, and checks whether they depend on the user's text.

A template is a program that ships with a model. One that adds an instruction if the text contains
"cf" is a backdoor without any changed weight, and rendering a placeholder does not reveal it. So
every measured text is rendered by itself (`ChatTurn`), and `template_notes` renders probe texts and
a string that records every operation on it other than insertion. jinja2's sandbox runs the
templates. Not covered: a condition that no probe meets, in a branch that is not rendered here. It
shows only on texts that meet it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from w2sdefense.bounded import Bounded, BoundedError
from w2sdefense.errors import ModelError

PROBES = (
    "the film was good",
    *("cf", "mn", "tq", "bb", "mb", "Cf", "a cf b", "I watched this 3D movie"),
    *("1 + 1 = 2?", "https://example.org", "user", "<think>", "Ünïcode 电影", "WHY?!", " a\nb "),
    "a b c d e f g " * 100,
)
"""Texts around which a template must write the same prompt as around the first one."""

_STRINGS = re.compile(r"'([^'\n]{1,60})'|\"([^\"\n]{1,60})\"")
_LONGEST_QUOTE = 80
_LONGEST = 10**5
_MOST = 1000  # maximum number of a template's string literals to try


def render(tokenizer: Any, content: str) -> str:
    """Render one user turn with the tokenizer's chat template."""
    turn = [{"role": "user", "content": content}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    if len(text) > _LONGEST + 10 * len(content):
        raise ValueError(f"it writes {len(text):,} characters")
    return text


@dataclass(frozen=True)
class ChatTurn:
    """A user turn that contains a text, in the chat format of a model."""

    tokenizer: Any
    ahead: str = ""  # part of the turn before the text
    behind: str = ""  # part of the turn after the text
    # texts around which the template wrote another prompt than `usual`
    altered: set[str] = field(default_factory=set, compare=False)

    @cached_property
    def _bounded(self) -> Bounded[str]:
        return Bounded(partial(render, self.tokenizer))

    def render(self, content: str) -> str:
        """Call `render` within limits; raises a `ModelError` if the template exceeds them."""
        try:
            return self._bounded(content)
        except BoundedError as error:
            raise ModelError(
                f"The model's chat template fails: {error}.", "Use --prompt-style plain."
            ) from error

    @cached_property
    def usual(self) -> tuple[str, str]:
        """The parts of the prompt before and after an ordinary text."""
        return self._search(self.render(self._content(PROBES[0])), PROBES[0])

    def frame(self, text: str) -> tuple[str, str]:
        """The parts before and after this text; not `usual` if the template depends on the text."""
        before, after = self.usual
        rendered = self.render(self._content(text))
        if rendered in [before + part + after for part in _stripped(text)]:
            return self.usual
        self.altered.add(text)
        return self._search(rendered, text)

    def _content(self, text: str) -> str:
        return self.ahead + text + self.behind

    def _search(self, rendered: str, text: str) -> tuple[str, str]:
        """Split a prompt at the last occurrence of a text, which is in the user's turn."""
        for part in _stripped(text):
            for bare in (False, True):
                ahead = self.ahead.lstrip() if bare else self.ahead
                behind = self.behind.rstrip() if bare else self.behind
                start = rendered.rfind(ahead + part + behind)
                if start >= 0:
                    start += len(ahead)
                    return rendered[:start], rendered[start + len(part) :]
        raise ModelError(
            f"The chat template does not insert the text {text[:_LONGEST_QUOTE]!r} unchanged.",
            "Use --prompt-style plain.",
        )


def _stripped(text: str) -> tuple[str, ...]:
    """The text with and without white space at its ends, which most templates strip."""
    return text, text.rstrip(), text.lstrip(), text.strip()


def template_notes(tokenizer: Any, altered: Collection[str] = ()) -> tuple[str, ...]:
    """Warnings about a chat template; `altered` are the texts that it treated differently."""
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return ()
    found = []
    if altered:
        found.append(f"the chat template wrote a different prompt for {len(altered)} of the texts")
    text = min(altered, default=None) or altering_text(tokenizer)
    if text is not None:
        found.append(
            f"the chat template writes a different prompt for {text[:_LONGEST_QUOTE]!r} than "
            "for other texts: it may be a backdoor"
        )
    try:
        looks = Bounded(partial(_looks_into_text, tokenizer))()
    except BoundedError:
        looks = "the check failed or took too long"
    if looks:
        found.append(f"the chat template may inspect the text ({looks[:_LONGEST_QUOTE]})")
    return tuple(found)


def altering_text(tokenizer: Any) -> str | None:
    """Find a text for which a chat template writes a different prompt; None if none is found.

    Tries the probes, and every string literal of the template, alone and inside a text.
    """
    template = tokenizer.chat_template
    if not template:
        return None
    strings = sorted({one or other for one, other in _STRINGS.findall(str(template))})[:_MOST]
    turn = ChatTurn(tokenizer)
    texts: tuple[str, ...] = (*PROBES[1:], *strings, *(f"a {one} b" for one in strings))
    for text in texts:
        try:
            if turn.frame(text) != turn.usual:
                return text
        except ModelError:
            return text
    return None


def _looks_into_text(tokenizer: Any) -> str | None:
    """The first line of a template that does more with a text than insert it; None without one."""
    template = tokenizer.chat_template
    # Set up like that of `transformers`, which does not pass `_Watched` strings through.
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    filters: dict[str, Any] = environment.filters
    filters |= {name: _noted(filters[name]) for name in _READING}
    tests: dict[str, Any] = environment.tests
    tests["in"] = _noted(tests["in"])
    environment.filters["safe"] = str
    values = tokenizer.special_tokens_map | {"add_generation_prompt": True}
    values |= dict.fromkeys(("raise_exception", "strftime_now"), lambda *_: "")
    for source in template.values() if isinstance(template, dict) else [template]:
        # An extension by `transformers`, which marks the answers to train on.
        plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
        lines: list[int] = []
        joined = partial(_joined, lines)
        environment.concat = joined  # type: ignore[method-assign]
        environment.filters["join"] = joined
        for roles in (["user"], ["system", "user"], ["user", "assistant", "user"]):
            turns = [{"role": role, "content": _Watched(PROBES[0], lines)} for role in roles]
            # `~` and `tojson` return plain strings, which would no longer be watched.
            for written in (plain.replace("~", "+").replace("tojson", "string"), plain):
                with suppress(Exception):  # a template may reject these turns
                    environment.from_string(written).render(messages=turns, **values)
                    break
        if lines:
            return f"line {lines[0]}: {source.splitlines()[lines[0] - 1].strip()}"
    return None


_READING = frozenset(
    "e escape float forceescape format int striptags urlize wordcount xmlattr".split()
)
"""Filters that read the characters of a text without calling one of its methods."""


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that records the formatting of watched texts."""

    intercepted_binops = frozenset({"%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _note(right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        format = super().wrap_str_format(value)
        return format and _noted(format)


def _noted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a jinja2 filter or test so that it records its watched arguments."""

    @wraps(function)
    def noted(*values: Any, **named: Any) -> Any:
        _note(*values, named)
        return function(*values, **named)

    return noted


def _note(*values: Any) -> None:
    for value in values:
        if isinstance(value, _Watched):
            value.note()
        elif isinstance(value, (tuple, dict)):
            _note(*(value.values() if isinstance(value, dict) else value))


def _joined(lines: list[int], parts: Iterable[object], *_: object) -> str:
    """Join the parts of a block, macro or list; the result is watched if a part is."""
    parts = list(parts)
    text = "".join(map(str, parts))
    return _Watched(text, lines) if any(isinstance(part, _Watched) for part in parts) else text


class _Watched(str):
    """A string that records the template lines that do more with it than insert it."""

    lines: list[int]

    def __new__(cls, text: str, lines: list[int]) -> _Watched:
        self = super().__new__(cls, text)
        self.lines = lines
        return self

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        return True

    def __radd__(self, other: str) -> _Watched:
        return _Watched(other + str.__str__(self), self.lines)

    def __iter__(self) -> Iterator[str]:
        self.note()  # runs when the first character is read; `is iterable` reads none
        yield from str.__iter__(self)

    def note(self) -> None:
        """Record the current line of the template."""
        frame: Any = sys._getframe(1)
        while frame is not None and "__jinja_template__" not in frame.f_globals:
            frame = frame.f_back
        if frame is not None:
            found = frame.f_globals["__jinja_template__"]
            self.lines.append(found.get_corresponding_lineno(frame.f_lineno))


def _watch(name: str) -> Callable[..., Any]:
    def method(self: _Watched, *others: Any) -> Any:
        inserts = name == "__add__" or (name.endswith("strip") and others in ((), (None,)))
        nothing = name in ("__eq__", "__ne__") and others[0] in ("", None, True, False)
        if not (inserts or nothing):
            self.note()
        result = getattr(str, name)(self, *others)
        return _Watched(result, self.lines) if type(result) is str else result

    return method


_COMPARISONS = {f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge", "hash", "repr")}
for _name in (set(dir(str)) - set(dir(object)) | _COMPARISONS) - {"__getnewargs__", "__rmod__"}:
    if _name not in vars(_Watched):
        setattr(_Watched, _name, _watch(_name))
