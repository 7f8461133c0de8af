"""Generates command line flags from the settings models.

Nested models are flattened: `distill.beta` becomes `--beta`, and a section with `prefix="teacher"`
gives `--teacher-model` and so on. Every setting can also be given as `--set section.key=value` and
in `--config FILE.yaml`. The file overrides defaults, and flags and `--set` override the file. The
result is validated once, before any work starts.

The help omits settings marked as advanced, and sections that the chosen defense, attack and task
ignore (`unread_sections`). `--help-all` shows every setting.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import typer
import yaml
from pydantic.fields import FieldInfo
from rich.console import Console

from w2sdefense.cli.display import run_or_explain
from w2sdefense.cli.help import SettingsCommand
from w2sdefense.config import RENAMES, Settings, load_settings, mark_of, merged, nested, read_yaml
from w2sdefense.errors import ConfigError

S = TypeVar("S", bound=Settings)

# Parameters of every command; settings may not use their names.
_CONFIG, _SET, _ALL = "config", "set", "help_all"


@dataclass(frozen=True)
class Flag:
    """The flag of one setting."""

    path: tuple[str, ...]  # keys of the setting in the nested values
    name: str  # parameter name: the flag with underscores
    kind: Any  # the type that typer parses
    default: Any
    help: str
    heading: str | None  # heading in the help; None for the common one
    argument: bool = False  # whether it is a positional argument
    advanced: bool = False
    renamed: bool = False  # whether it is an old name (`RENAMES`)

    @property
    def dashed(self) -> str:
        """The spelling of the flag without its leading dashes."""
        return self.name.replace("_", "-")


def add_command(
    app: typer.Typer, settings: type[S], run: Callable[[S], None], name: str | None = None
) -> None:
    """Add a command that collects settings and calls `run` with them.

    A `W2SError` is printed, with exit code 2. The command has the name and the docstring (up to
    `Args:`) of `run`, unless `name` is given.
    """
    flags = (*_flags(settings), *_old_flags(settings))
    _require_unique_names(flags)

    def collect_and_run(
        config: Path | None, set: list[str] | None, help_all: bool, **values: Any
    ) -> None:
        given = [flag for flag in flags if values[flag.name] is not None]
        _warn_of_advanced(given)
        parts = [
            _nested_defaults(settings),
            {} if config is None else read_yaml(config),
            *(nested(flag.path, values[flag.name]) for flag in given),
            *map(_assignment, set or ()),
        ]
        source = "The command line" if config is None else f"{config} with the command line"
        run(load_settings(settings, functools.reduce(merged, parts), source))

    command = run_or_explain(collect_and_run)
    command.__name__ = run.__name__
    # The `Args` section would repeat the flags.
    command.__doc__ = inspect.cleandoc(run.__doc__ or "").split("\n\nArgs:", 1)[0]
    parameters = _parameters(flags)
    # typer reads the parameters from the signature, and their types from the annotations.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    kind = type("Command", (SettingsCommand,), {"flags": flags})
    app.command(name or run.__name__, cls=kind)(command)


def _assignment(text: str) -> dict[str, Any]:
    """Parse `section.key=value`; the value is YAML, or else plain text."""
    key, equals, value = text.partition("=")
    path = key.replace("-", "_").split(".")
    if not equals or not all(path):
        raise ConfigError(f"--set {text!r} is not section.key=value.", "See --help-all for keys.")
    try:
        return nested(path, yaml.safe_load(value))
    except yaml.YAMLError:
        return nested(path, value)


def _warn_of_advanced(given: Iterable[Flag]) -> None:
    """Warn that the flags of advanced settings will be removed, and name the replacement."""
    for flag in given:
        if flag.advanced and not flag.renamed:
            Console(stderr=True, markup=False, soft_wrap=True).print(
                f"Warning: --{flag.dashed} is deprecated; use --set {'.'.join(flag.path)}=...",
                style="yellow",
                highlight=False,
            )


def _flags(
    settings: type[Settings],
    defaults: Settings | None = None,
    path: tuple[str, ...] = (),
    prefix: str = "",
    heading: str | None = None,
    advanced: bool = False,
) -> Iterator[Flag]:
    """The flags of a settings class; those of nested classes get their own heading."""
    for name, field in settings.model_fields.items():
        default = _default(name, field, defaults)
        nested = _nested_settings(field)
        hidden = advanced or bool(mark_of(field, "advanced"))
        if nested is None:
            yield Flag(
                path=(*path, name),
                name=prefix + (mark_of(field, "flag") or name),
                kind=_parsed_type(field.annotation, f"{settings.__name__}.{name}"),
                default=default,
                help=(field.description or "") + (" Required." if field.is_required() else ""),
                heading=heading,
                argument=bool(mark_of(field, "argument")),
                advanced=hidden,
            )
        else:
            yield from _flags(
                nested,
                default if isinstance(default, Settings) else None,
                (*path, name),
                prefix + (f"{section}_" if (section := mark_of(field, "prefix")) else ""),
                _heading(nested),
                hidden,
            )


def _old_flags(settings: type[Settings]) -> Iterator[Flag]:
    """The old flags of renamed settings, which are kept for one release."""
    for rename in RENAMES:
        if rename.run == settings.__name__ and rename.flag is not None:
            path, name = tuple(rename.old.split(".")), rename.flag.replace("-", "_")
            yield Flag(path, name, str, None, "", None, advanced=True, renamed=True)


def _default(name: str, field: FieldInfo, defaults: Settings | None) -> Any:
    """The default of a field: from the instance `defaults` if given, else from the class."""
    if defaults is not None:
        return getattr(defaults, name)
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _nested_settings(field: FieldInfo) -> type[Settings] | None:
    kind = _without_none(field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def _heading(settings: type[Settings]) -> str:
    """The docstring up to its first punctuation mark, because a whole line is too long."""
    return re.split(r"[.,:(\n]", settings.__doc__ or settings.__name__, maxsplit=1)[0].strip()


def _without_none(annotation: Any) -> Any:
    """Remove `None` and `Annotated` constraints from an annotation: `X | None` becomes `X`."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(inner) == 1:
            return _without_none(inner[0])
    return annotation


def _parsed_type(annotation: Any, owner: str) -> Any:
    """The type that typer parses for a setting; pydantic checks the constraints."""
    kind = _without_none(annotation)
    if kind in (bool, int, float, str, Path) or get_origin(kind) is Literal:
        return kind
    items = get_args(kind)
    if get_origin(kind) is tuple and len(items) == 2 and items[1] is Ellipsis:
        one = _parsed_type(items[0], owner)
        # typer does not support lists of choices.
        return list[str] if get_origin(one) is Literal else list[one]  # type: ignore[valid-type]
    raise TypeError(f"{owner}: no flag can hold {kind!r}")


def _require_unique_names(flags: Iterable[Flag]) -> None:
    owners: dict[str, str] = dict.fromkeys((_CONFIG, _SET, _ALL), "every command")
    for flag in flags:
        owner = ".".join(flag.path)
        if flag.name in owners:
            raise ValueError(
                f"{owner} and {owners[flag.name]} both define --{flag.dashed}; give one of their "
                "sections a prefix"
            )
        owners[flag.name] = owner


def _parameters(flags: Iterable[Flag]) -> list[inspect.Parameter]:
    show_all = typer.Option(False, "--help-all", is_eager=True, callback=_show_all)
    return [
        _parameter(_CONFIG, Path | None, typer.Option(None, f"--{_CONFIG}")),
        _parameter(_SET, list[str] | None, typer.Option(None, f"--{_SET}")),
        _parameter(_ALL, bool, show_all),
        *(_parameter(flag.name, flag.kind | None, _option(flag)) for flag in flags),
    ]


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        command = cast(SettingsCommand, context.command)
        Console(markup=False, soft_wrap=True).print(command.all_settings(), highlight=False)
        raise typer.Exit


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _option(flag: Flag) -> Any:
    if flag.argument:
        return typer.Argument(None, help=flag.help, show_default=False)
    spelling = f"--{flag.dashed}/--no-{flag.dashed}" if flag.kind is bool else f"--{flag.dashed}"
    # None means that the flag is not given, so that the default of the settings applies.
    return typer.Option(None, spelling, help=flag.help)


def _nested_defaults(settings: type[Settings]) -> dict[str, Any]:
    """Values that default sections set explicitly; giving one flag must not reset the others."""
    defaults = {name: _default(name, field, None) for name, field in settings.model_fields.items()}
    return {
        name: default.model_dump(exclude_unset=True)
        for name, default in defaults.items()
        if isinstance(default, Settings)
    }
