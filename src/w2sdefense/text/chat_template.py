"""Chat templates of untrusted models: do they write more than the text into a prompt?

A template is a program that comes with a model. One that adds an instruction if the text holds "cf"
is a backdoor without a single changed weight, and rendering it with a placeholder never shows it.
So every text that is measured is rendered itself (`ChatTurn`), and a template is tried on probes,
and on a text that notes where more is done with it than to insert it (`template_notes`). jinja2's
sandbox renders. A condition that no probe meets, in a branch that no turns reach here, is found
only on the texts that meet it.
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
"""Contents that a template must put into a prompt alike; the first one is the rule."""

_STRINGS = re.compile(r"'([^'\n]{1,60})'|\"([^\"\n]{1,60})\"")
_LONGEST_QUOTE = 80
_LONGEST = 10**5
_MOST = 1000  # strings of a template that are tried


def render(tokenizer: Any, content: str) -> str:
    """The prompt of one turn of the user, as the tokenizer's chat template writes it."""
    turn = [{"role": "user", "content": content}]
    text: str = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    if len(text) > _LONGEST + 10 * len(content):
        raise ValueError(f"it writes {len(text):,} characters")
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
    def _bounded(self) -> Bounded[str]:
        return Bounded(partial(render, self.tokenizer))

    def render(self, content: str) -> str:
        """See `render`; a template that fails or takes too long raises `ModelError`."""
        try:
            return self._bounded(content)
        except BoundedError as error:
            raise ModelError(
                f"The chat template of the model fails: {error}.", "Use --prompt-style plain."
            ) from error

    @cached_property
    def usual(self) -> tuple[str, str]:
        """What a prompt holds before and behind an ordinary text."""
        return self._search(self.render(self._content(PROBES[0])), PROBES[0])

    def frame(self, text: str) -> tuple[str, str]:
        """The same for this text; another one only if the template looks into the text."""
        before, after = self.usual
        rendered = self.render(self._content(text))
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
    try:
        looks = Bounded(partial(_looks_into_text, tokenizer))()
    except BoundedError:
        looks = "it cannot be told where"
    if looks:
        found.append(f"the chat template looks into the text ({looks[:_LONGEST_QUOTE]})")
    return tuple(found)


def altering_text(tokenizer: Any) -> str | None:
    """A text around which a chat template writes something else; None if none was found.

    Tried are the probes, and every string in the template as a part of a text.
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
    """The first line of a template that does more with a text than to insert it."""
    template = tokenizer.chat_template
    # `transformers` has the same, but gives templates no objects of ours.
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
        # `transformers` marks answers to train on so; it is no part of jinja2.
        plain = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source)
        lines: list[int] = []
        joined = partial(_joined, lines)
        environment.concat = joined  # type: ignore[method-assign]
        environment.filters["join"] = joined
        for roles in (["user"], ["system", "user"], ["user", "assistant", "user"]):
            turns = [{"role": role, "content": _Watched(PROBES[0], lines)} for role in roles]
            # What `~` joins, and a text in JSON, would be watched no more.
            for written in (plain.replace("~", "+").replace("tojson", "string"), plain):
                with suppress(Exception):  # a template may take other turns only
                    environment.from_string(written).render(messages=turns, **values)
                    break
        if lines:
            return f"line {lines[0]}: {source.splitlines()[lines[0] - 1].strip()}"
    return None


_READING = frozenset(
    "e escape float forceescape format int striptags urlize wordcount xmlattr".split()
)
"""Filters that see the characters of a text without calling one of its methods."""


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox that notes what is formatted."""

    intercepted_binops = frozenset({"%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _note(right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        format = super().wrap_str_format(value)
        return format and _noted(format)


def _noted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or a test of jinja2 that notes the texts that it is given."""

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
    """What jinja2 joins (blocks, macros, lists) is watched if a part is."""
    parts = list(parts)
    text = "".join(map(str, parts))
    return _Watched(text, lines) if any(isinstance(part, _Watched) for part in parts) else text


class _Watched(str):
    """A text that notes the lines of a template that do more with it than to insert it."""

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
        self.note()  # when the first character is asked for: `is iterable` asks for none
        yield from str.__iter__(self)

    def note(self) -> None:
        """Note the line of the template that is running."""
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
