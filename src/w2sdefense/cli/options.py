"""Command line flags made from the settings models.

A setting has one name, one default and one description; here they become flags. Nested models are
flattened: `distill.beta` is `--beta`, and a nested field declared with
`json_schema_extra={"prefix": "teacher"}` gives `--teacher-model` and so on. Every setting can also
be given as `--set section.key=value` and in `--config FILE.yaml`. Defaults are overridden by the
file, the file by flags and `--set`, and the result is validated once, before any work starts.

The help shows what most users need: not the settings marked as advanced, and only the sections that
the chosen defense, attack and task read (`unread_sections`). `--help-all` shows every setting.

Nothing here imports torch.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

import typer
import yaml
from pydantic.fields import FieldInfo
from rich.console import Console

from w2sdefense.cli.errors import run_or_explain
from w2sdefense.cli.help import SettingsCommand
from w2sdefense.config import RENAMES, Settings, load_settings, read_yaml
from w2sdefense.errors import ConfigError

S = TypeVar("S", bound=Settings)

# Parameters that every command has; no setting may take their names.
_CONTEXT, _CONFIG, _SET, _ALL = "context", "config", "set", "help_all"


@dataclass(frozen=True)
class Flag:
    """One setting as a flag.

    Attributes:
        path: Where the setting is in the nested values.
        name: Parameter name: the flag with underscores.
        kind: The type that typer parses.
        default: Default shown in the help.
        help: Description.
        heading: What it stands under in the help, or None for the common one.
        argument: Whether it is given by its place and not by a flag (declared with
            `json_schema_extra={"argument": True}`).
        advanced: Whether it is left out of the help.
        renamed: Whether it is an old name; see `config/renames.py`.
    """

    path: tuple[str, ...]
    name: str
    kind: Any
    default: Any
    help: str
    heading: str | None
    argument: bool = False
    advanced: bool = False
    renamed: bool = False

    @property
    def dashed(self) -> str:
        """Its spelling behind the dashes."""
        return self.name.replace("_", "-")


def add_command(
    app: typer.Typer, settings: type[S], run: Callable[[S], None], name: str | None = None
) -> None:
    """Add a command that collects settings and runs on them. It prints a `W2SError`, with code 2.

    Args:
        app: The application.
        settings: The settings class of the command.
        run: What the command does. Its name and its docstring (up to `Args:`) become the command's.
        name: Another name.

    Raises:
        ValueError: Two settings ask for the same flag.
        TypeError: A setting has a type that no flag can hold.
    """
    flags = (*_flags(settings), *_old_flags(settings))
    _require_unique_names(flags)

    def collect_and_run(
        context: typer.Context,
        config: Path | None,
        set: list[str] | None,
        help_all: bool,
        **values: Any,
    ) -> None:
        given = [flag for flag in flags if _is_given(context, flag.name)]
        _warn_of_advanced(given)
        from_file = {} if config is None else read_yaml(config)
        merged = _merge(_nested_defaults(settings), from_file)
        merged = _merge(merged, _nest((flag.path, values[flag.name]) for flag in given))
        merged = _merge(merged, _nest(map(_assignment, set or ())))
        source = "The command line" if config is None else f"{config} with the command line"
        run(load_settings(settings, merged, source))

    command = run_or_explain(collect_and_run)
    command.__name__ = run.__name__
    command.__doc__ = _summary(run)
    parameters = _parameters(flags)
    # typer reads both: the parameters from the signature, their types from the annotations.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    kind = type("Command", (SettingsCommand,), {"flags": flags})
    app.command(name or run.__name__, cls=kind)(command)


def _assignment(text: str) -> tuple[tuple[str, ...], Any]:
    """The path and the value of `section.key=value`; the value is YAML.

    Raises:
        ConfigError: It has no such form.
    """
    path, equals, value = text.partition("=")
    if not equals or not all(path.split(".")):
        raise ConfigError(f"--set {text!r} is no section.key=value.", "See --help-all for keys.")
    try:
        return tuple(path.replace("-", "_").split(".")), yaml.safe_load(value)
    except yaml.YAMLError:
        return tuple(path.replace("-", "_").split(".")), value


def _warn_of_advanced(given: Iterable[Flag]) -> None:
    """Say of flags that will go how their setting is given then."""
    for flag in given:
        if flag.advanced and not flag.renamed:
            Console(stderr=True, markup=False, soft_wrap=True).print(
                f"Warning: --{flag.dashed} will go; write --set {'.'.join(flag.path)}=...",
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
    shown: Collection[str] | None = None,
) -> Iterator[Flag]:
    """The flags of a settings class, those of nested classes under a heading of their own.

    Advanced are those that are marked so, and those that the list `shown` of a section leaves out.
    """
    for name, field in settings.model_fields.items():
        default = _default(name, field, defaults)
        nested = _nested_settings(field)
        hidden = advanced or bool(_extra(field, "advanced"))
        hidden = hidden or (shown is not None and name not in shown)
        if nested is None:
            yield Flag(
                path=(*path, name),
                name=prefix + (_extra(field, "flag") or name),
                kind=_parsed_type(field.annotation, f"{settings.__name__}.{name}"),
                default=default,
                help=(field.description or "") + (" Required." if field.is_required() else ""),
                heading=heading,
                argument=bool(_extra(field, "argument")),
                advanced=hidden,
            )
        else:
            yield from _flags(
                nested,
                default if isinstance(default, Settings) else None,
                (*path, name),
                prefix + _prefix(field),
                _heading(nested),
                hidden,
                _extra(field, "shown"),
            )


def _old_flags(settings: type[Settings]) -> Iterator[Flag]:
    """The flags that renamed settings had, for one release."""
    for rename in RENAMES:
        if rename.run == settings.__name__ and rename.flag is not None:
            path, name = tuple(rename.old.split(".")), rename.flag.replace("-", "_")
            yield Flag(path, name, str, None, "", None, advanced=True, renamed=True)


def _default(name: str, field: FieldInfo, defaults: Settings | None) -> Any:
    """The default of a field: that of the instance that holds it, else that of its class."""
    if defaults is not None:
        return getattr(defaults, name)
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _nested_settings(field: FieldInfo) -> type[Settings] | None:
    kind = _without_none(field.annotation)
    return kind if isinstance(kind, type) and issubclass(kind, Settings) else None


def _prefix(field: FieldInfo) -> str:
    prefix = _extra(field, "prefix")
    return f"{prefix}_" if prefix else ""


def _extra(field: FieldInfo, name: str) -> Any:
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def _heading(settings: type[Settings]) -> str:
    """The docstring up to its first punctuation: a whole line does not fit over a section."""
    return re.split(r"[.,:(\n]", settings.__doc__ or settings.__name__, maxsplit=1)[0].strip()


def _without_none(annotation: Any) -> Any:
    """`X` for `X | None`; anything else as it is, freed from its constraints."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(inner) == 1:
            return _without_none(inner[0])
    return annotation


def _parsed_type(annotation: Any, owner: str) -> Any:
    """The type that typer parses for a setting; the constraints are left to pydantic."""
    kind = _without_none(annotation)
    if kind in (bool, int, float, str, Path) or get_origin(kind) is Literal:
        return kind
    items = get_args(kind)
    if get_origin(kind) is tuple and len(items) == 2 and items[1] is Ellipsis:
        one = _parsed_type(items[0], owner)
        # typer knows no list of choices.
        return list[str] if get_origin(one) is Literal else list[one]  # type: ignore[valid-type]
    raise TypeError(f"{owner}: no flag can hold {kind!r}")


def _require_unique_names(flags: Iterable[Flag]) -> None:
    owners: dict[str, str] = dict.fromkeys((_CONTEXT, _CONFIG, _SET, _ALL), "every command")
    for flag in flags:
        owner = ".".join(flag.path)
        if flag.name in owners:
            raise ValueError(
                f"{owner} and {owners[flag.name]} both ask for --{flag.dashed}; give the "
                'field of one of them json_schema_extra={"prefix": ...}'
            )
        owners[flag.name] = owner


def _parameters(flags: Iterable[Flag]) -> list[inspect.Parameter]:
    show_all = typer.Option(False, "--help-all", is_eager=True, callback=_show_all)
    return [
        _parameter(_CONTEXT, typer.Context, inspect.Parameter.empty),
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
        return typer.Argument(flag.default, help=flag.help, show_default=False)
    spelling = f"--{flag.dashed}/--no-{flag.dashed}" if flag.kind is bool else f"--{flag.dashed}"
    default = list(flag.default) if isinstance(flag.default, tuple) else flag.default
    return typer.Option(default, spelling, help=flag.help)


def _is_given(context: typer.Context, name: str) -> bool:
    # By name: which module the enumeration comes from differs between releases of typer.
    source = context.get_parameter_source(name)
    return source is not None and not source.name.startswith("DEFAULT")


def _nested_defaults(settings: type[Settings]) -> dict[str, Any]:
    """What the default instances of nested fields set apart from the defaults of their class.

    Without it, giving one flag of such a field would reset all the others to the class defaults.
    """
    defaults = {name: _default(name, field, None) for name, field in settings.model_fields.items()}
    return {
        name: default.model_dump(exclude_unset=True)
        for name, default in defaults.items()
        if isinstance(default, Settings)
    }


def _nest(values: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (*parents, name), value in values:
        place = nested
        for parent in parents:
            place = place.setdefault(parent, {})
        place[name] = value
    return nested


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        present = merged.get(name)
        if not isinstance(value, dict) or present is None:
            merged[name] = value
        elif isinstance(present, dict):
            merged[name] = _merge(present, value)
        # Else a section of the file is not a mapping: it stays, for the validation to report.
    return merged


def _summary(run: Callable[..., Any]) -> str:
    """The docstring of a command up to its `Args:`, which would repeat the flags."""
    return inspect.cleandoc(run.__doc__ or "").split("\n\nArgs:", 1)[0]
