"""Command line flags made from the settings models.

A setting has one name, one default and one description, all of them in `config/`; here they
become flags. Nested models are flattened: `distill.beta` is `--beta`, and a nested field declared
with `json_schema_extra={"prefix": "teacher"}` gives `--teacher-model` and so on. A flag whose name
no field can have is declared with `{"flag": "json"}`. Every command also takes `--config
FILE.yaml`. Defaults are overridden by the file, the file by the flags that are given, and the
result is validated once, before any work starts.

What the commands do is the business of `cli.py`. Nothing here imports torch.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from w2sdefense.cli.errors import run_or_explain
from w2sdefense.config import Settings, load_settings, read_yaml

S = TypeVar("S", bound=Settings)

# Parameters that every command has; no setting may take their names.
_CONTEXT = "context"
_CONFIG = "config"


@dataclass(frozen=True)
class _Flag:
    """One setting as a flag.

    Attributes:
        path: Where the setting is in the nested values.
        name: Parameter name: the flag with underscores.
        kind: The type that typer parses.
        default: Default shown in the help.
        help: Description.
        panel: Heading that it stands under, or None for the common one.
        argument: Whether it is given by its place and not by a flag (declared with
            `json_schema_extra={"argument": True}`).
    """

    path: tuple[str, ...]
    name: str
    kind: Any
    default: Any
    help: str
    panel: str | None
    argument: bool = False


def command_from(settings: type[S], run: Callable[[S], None]) -> Callable[..., None]:
    """Build the function of a typer command that collects settings and runs on them.

    Args:
        settings: The settings class of the command.
        run: What the command does. Its name and its docstring (up to `Args:`) become the command's.

    Returns:
        A function for `typer.Typer().command()`. It raises no `W2SError`: it prints it and exits
        with code 2.

    Raises:
        ValueError: Two settings ask for the same flag.
        TypeError: A setting has a type that no flag can hold.
    """
    flags = tuple(_flags(settings))
    _require_unique_names(flags)

    def collect_and_run(context: typer.Context, config: Path | None, **values: Any) -> None:
        given = _nest(
            (flag.path, values[flag.name]) for flag in flags if _is_given(context, flag.name)
        )
        from_file = {} if config is None else read_yaml(config)
        merged = _merge(_merge(_nested_defaults(settings), from_file), given)
        source = "The command line" if config is None else f"{config} with the command line"
        run(load_settings(settings, merged, source))

    command = run_or_explain(collect_and_run)
    command.__name__ = run.__name__
    command.__doc__ = _summary(run)
    parameters = _parameters(flags)
    # typer reads both: the parameters from the signature, their types from the annotations.
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def _flags(
    settings: type[Settings],
    defaults: Settings | None = None,
    path: tuple[str, ...] = (),
    prefix: str = "",
    panel: str | None = None,
) -> Iterator[_Flag]:
    """The flags of a settings class, those of nested classes under a heading of their own."""
    for name, field in settings.model_fields.items():
        default = _default(name, field, defaults)
        nested = _nested_settings(field)
        if nested is None:
            yield _Flag(
                path=(*path, name),
                name=prefix + (_extra(field, "flag") or name),
                kind=_parsed_type(field.annotation, f"{settings.__name__}.{name}"),
                default=default,
                help=(field.description or "") + (" Required." if field.is_required() else ""),
                panel=panel,
                argument=bool(_extra(field, "argument")),
            )
        else:
            yield from _flags(
                nested,
                default if isinstance(default, Settings) else None,
                (*path, name),
                prefix + _prefix(field),
                _heading(nested),
            )


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
    """The docstring up to its first punctuation: a whole line does not fit over a panel."""
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
        return list[_parsed_type(items[0], owner)]  # type: ignore[misc]
    raise TypeError(f"{owner}: no flag can hold {kind!r}")


def _require_unique_names(flags: Iterable[_Flag]) -> None:
    owners: dict[str, str] = {_CONTEXT: "every command", _CONFIG: "every command"}
    for flag in flags:
        owner = ".".join(flag.path)
        if flag.name in owners:
            raise ValueError(
                f"{owner} and {owners[flag.name]} both ask for --{_dashed(flag.name)}; give the "
                'field of one of them json_schema_extra={"prefix": ...}'
            )
        owners[flag.name] = owner


def _parameters(flags: Iterable[_Flag]) -> list[inspect.Parameter]:
    config = typer.Option(
        None,
        f"--{_CONFIG}",
        metavar="FILE.yaml",
        help="Settings of a run as YAML; flags override what the file says.",
    )
    return [
        _parameter(_CONTEXT, typer.Context, inspect.Parameter.empty),
        _parameter(_CONFIG, Path | None, config),
        *(_parameter(flag.name, flag.kind | None, _option(flag)) for flag in flags),
    ]


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _option(flag: _Flag) -> Any:
    if flag.argument:
        return typer.Argument(flag.default, help=flag.help, show_default=False)
    dashed = _dashed(flag.name)
    spelling = f"--{dashed}/--no-{dashed}" if flag.kind is bool else f"--{dashed}"
    default = list(flag.default) if isinstance(flag.default, tuple) else flag.default
    return typer.Option(default, spelling, help=flag.help, rich_help_panel=flag.panel)


def _dashed(name: str) -> str:
    return name.replace("_", "-")


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
