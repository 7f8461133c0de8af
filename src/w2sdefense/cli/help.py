"""The help of a command with settings: what most users need, on two screens.

Flags are listed under the headings of their sections, each with the first sentence of its
description. Advanced settings, and settings that the chosen defense, attack or task ignores, are
not shown.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin

import yaml
from typer.core import TyperCommand

from w2sdefense.commands.runs import unread_sections
from w2sdefense.config import flat, read_yaml
from w2sdefense.errors import ConfigError

if TYPE_CHECKING:
    from w2sdefense.cli.options import Flag

LEFT = 30  # columns for a flag and its value; a longer one gets its own line
WIDTH = 100  # maximum line length
_ALWAYS = [
    ("--config FILE.yaml", "Settings as YAML; flags override them."),
    ("--set SECTION.KEY=VALUE", "Any setting; may be given more than once."),
    ("--help, --help-all", "Show this, or every setting, and exit."),
]


class SettingsCommand(TyperCommand):
    """A command whose flags are settings; subclasses define `flags`."""

    flags: ClassVar[tuple[Flag, ...]] = ()
    _given: Sequence[str] = ()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Store the arguments, because the help depends on the chosen values."""
        self._given = tuple(args)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the settings that most users need."""
        unread = unread_sections(_chosen(self.flags, self._given))
        shown = [f for f in self.flags if not f.advanced and not _below(f.path, unread)]
        arguments = (f.name.upper() for f in shown if f.argument)
        usage = " ".join(["Usage:", ctx.command_path, *arguments, "[OPTIONS]"])
        formatter.write(f"{usage}\n\n{textwrap.indent(self.help or '', '  ')}\n")
        formatter.width = _width()
        sections: dict[str | None, list[tuple[str, str]]] = {None: []}
        for flag in shown:
            sections.setdefault(flag.heading, []).append((_left(flag), _right(flag)))
        sections[None] += _ALWAYS
        for heading, rows in sections.items():
            with formatter.section(heading or "Run"):
                formatter.write_dl(rows, col_max=LEFT)

    def all_settings(self) -> str:
        """Every setting with its key for `--set` and files, and its whole description."""
        lines = [f"Every setting of {self.name}, for --set and in a file of --config:"]
        for flag in self.flags:
            if flag.renamed:
                continue
            default = flag.default
            if isinstance(default, Path | tuple):
                default = str(default) if isinstance(default, Path) else list(default)
            default = yaml.safe_dump(default, default_flow_style=True).split("\n")[0]
            lines += ["", f"{'.'.join(flag.path)}  [{default}]"]
            text = f"{flag.help} {_choices(flag.kind)}".strip()
            lines += textwrap.wrap(text, _width(), initial_indent="    ", subsequent_indent="    ")
        return "\n".join(lines)


def _left(flag: Flag) -> str:
    if flag.argument:
        return flag.name.upper()
    if flag.kind is bool:
        return f"--{'no-' if flag.default else ''}{flag.dashed}"
    kind = get_args(flag.kind)[0] if get_origin(flag.kind) is list else flag.kind
    value = {int: "N", float: "X", Path: "PATH"}.get(kind, "NAME" if _choices(kind) else "TEXT")
    return f"--{flag.dashed} {value}"


def _right(flag: Flag) -> str:
    first = re.match(r".*?(?<!\bEq)(?<!\bEqs)\.(?=\s|$)", flag.help)
    text = first[0] if first else flag.help
    if flag.help.endswith(" Required.") and not flag.argument:
        text += " Required."
    choices = [name for name in _names(flag.kind) if name not in text]
    silent = flag.kind is bool or flag.default in (None, (), "")
    default = "" if silent else f"[{' '.join(_words(flag.default))}]"
    parts = [text, f"({_choices(flag.kind)})" if choices else "", default]
    return "  ".join(part for part in parts if part)


def _names(kind: Any) -> tuple[str, ...]:
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


def _choices(kind: Any) -> str:
    return "|".join(_names(kind))


def _words(value: Any) -> list[str]:
    return [str(each) for each in (value if isinstance(value, list | tuple) else [value])]


def _width() -> int:
    return min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)


def _below(path: Sequence[str], sections: Iterable[str]) -> bool:
    """Whether a setting is in `sections`, or inside one of them ("attack.syn")."""
    dotted = ".".join(path) + "."
    return any(dotted.startswith(f"{section}.") for section in sections)


def _chosen(flags: Iterable[Flag], args: Sequence[str]) -> dict[str, list[str]]:
    """The values that the arguments give to settings, as far as readable: path -> values."""
    paths = {f"--{flag.dashed}": ".".join(flag.path) for flag in flags}
    chosen: dict[str, list[str]] = {}
    spread = [part for arg in args for part in arg.split("=", 1 if arg.startswith("--") else 0)]
    for name, value in zip(spread, spread[1:], strict=False):
        if name == "--config":
            with contextlib.suppress(ConfigError):
                chosen = {
                    key: _words(found) for key, found in flat(read_yaml(Path(value)))
                } | chosen
        elif name in paths:
            chosen.setdefault(paths[name], []).append(value)
    return chosen
