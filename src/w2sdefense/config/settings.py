"""The base class of settings, and functions that read them from plain values and files.

Unknown names are errors. A `ConfigError` names every invalid value.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.fields import FieldInfo

from w2sdefense.errors import ConfigError, reading

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy takes
Place = Literal["random", "start", "end"]

TEXT_SLOT = "{text}"  # placeholder for the text in a prompt template


class Settings(BaseModel):
    """Base of all settings: immutable, and unknown names are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def setting(default: Any, description: str | None = None, **marks: Any) -> Any:
    """Declare a field of a settings class with its default and its help.

    Marks: `advanced` omits it from `--help`; `files` means that the value may name a local file or
    folder, whose content affects results; `exclude` omits it from records; `flag` renames its flag.
    For a section, `prefix` is the prefix of its flags.
    """
    excluded = marks.pop("exclude", None)
    return Field(
        default, description=description, exclude=excluded, json_schema_extra=marks or None
    )


def mark_of(field: FieldInfo, name: str) -> Any:
    """The value of a mark of a field (see `setting`); None if it is not set."""
    extra = field.json_schema_extra
    return extra.get(name) if isinstance(extra, dict) else None


def named_files(settings: Settings, sections: Collection[str] = ()) -> Iterator[tuple[str, str]]:
    """Names and values of the settings that may name files, in some sections or in all."""
    for name, declared in type(settings).model_fields.items():
        value = getattr(settings, name)
        if sections and name not in sections:
            continue
        if isinstance(value, Settings):
            yield from named_files(value)
        elif mark_of(declared, "files"):
            several = value if isinstance(value, tuple) else (value,)
            yield from ((name, str(each)) for each in several if each is not None)


def sections_model(sections: Mapping[str, tuple[str, type[Settings]]]) -> Any:
    """Create a base class with the given sections (name -> prefix of the flags, class)."""
    fields: dict[str, Any] = {
        name: (kind, setting(kind(), prefix=prefix)) for name, (prefix, kind) in sections.items()
    }
    return create_model("Sections", __base__=Settings, **fields)


def sections_of_file(owner: type) -> dict[str, type[Settings]]:
    """The fields of a defense or an attack whose settings class is defined in the same file."""
    hints = get_type_hints(owner)
    names = (field.name for field in fields(owner))
    return {name: hints[name] for name in names if hints[name].__module__ == owner.__module__}


def require_slot(name: str, template: str) -> None:
    """Raise a `ValueError` unless a template contains the placeholder for the text once."""
    if template.count(TEXT_SLOT) != 1:
        raise ValueError(f"{name} must contain {TEXT_SLOT} exactly once")


class Rename(NamedTuple):
    """An old setting of a run ("section.setting") or section, its new path, and its old flag."""

    run: str
    old: str
    new: str | None = None
    flag: str | None = None


_REMOVED = {
    "DefendRun TuneRun": "soft.per_label soft.tokens soft.rate soft.step soft.restart "
    "insertions.rate insertions.phrases wordings.rate "
    "adapter.adapter_layers adapter.vera_r adapter.fourier_frequencies adapter.fourier_scaling "
    "decoys.held_out scan.rate",
    "DefendRun": "scan.fine_tuned_from scan.base_tokens scan.kinds scan.group_size scan.singles "
    "scan.rounds scan.survivors scan.mutations scan.probes scan.proof_texts scan.kept "
    "icl.file icl.choice onion.exact prune.by psim.virtual_tokens psim.encoder_width "
    "psim.adapter quantization.training "
    "merging.method merging.density merging.scale scpd.paraphraser scpd.prefix scpd.max_length",
    "TuneRun": "tune.stop_below signal.seed",
    "PoisonRun": "attack.syn.model attack.syn.prompt",
    "EvaluateRun DefendRun": "test.syn.model test.syn.prompt",
}
"""Classes of runs -> settings that were removed from them."""

_PREFIXES = {
    "soft": "soft-trigger",
    "insertions": "insertion",
    "wordings": "wording",
    "merging": "merge",
    "adapter": "",
    **dict.fromkeys(("attack.syn", "test.syn"), "syn"),
}
"""Section -> prefix of its old flags, if that differs from its name."""


def _removed() -> Iterator[Rename]:
    for runs, settings in _REMOVED.items():
        for old in settings.split():
            section, _, name = old.rpartition(".")
            flag = f"{_PREFIXES.get(section, section)}-{name}".lstrip("-").replace("_", "-")
            yield from (Rename(run, old, None, flag) for run in runs.split())


RENAMES = (
    *_removed(),
    *(
        Rename(run, name)
        for run in ("DefendRun", "TuneRun")
        for name in ("soft", "insertions", "wordings")
    ),
    Rename("DefendRun", "scan"),
    Rename("DefendRun", "quantization"),
    Rename("BenchRun", "launcher", None, "launcher"),
    Rename("BenchRun", "ray.retries", None, "ray-retries"),
    Rename("BenchRun", "ray.defend.gpus", "ray.gpus", "ray-defend-gpus"),
    Rename("BenchRun", "ray.defend.memory_gb", "ray.memory_gb", "ray-defend-memory-gb"),
    *(Rename("BenchRun", f"ray.{kind}") for kind in ("defend", "poison", "teach")),
    *(
        Rename("ScanRun", f"scan.{old}", new and f"scan.{new}", old)
        for old, new in (
            ("moved", "base_tokens"),
            ("suspects", "kept"),
            ("first", None),
            ("parents", "survivors"),
            ("children", "mutations"),
        )
    ),
)
"""Old names, which are accepted for one more release."""


def with_new_names(run: str, values: dict[str, Any], source: str) -> dict[str, Any]:
    """Move nested values from old to current names, with a warning for each."""
    renamed = copy.deepcopy(values)
    for rename in RENAMES:
        *parents, name = rename.old.split(".")
        place: Any = renamed
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        if rename.run != run or not isinstance(place, dict) or name not in place:
            continue
        value = place.pop(name)
        if value == {}:
            continue
        fate = "was removed and has no effect" if rename.new is None else f"is now {rename.new}"
        warnings.warn(f"{source}: the setting {rename.old} {fate}.", FutureWarning, stacklevel=2)
        if rename.new is not None:
            # A value under the new name takes precedence.
            renamed = merged(nested(rename.new.split("."), value), renamed)
    return renamed


def nested(path: Sequence[str], value: Any) -> dict[str, Any]:
    """Wrap a value in nested dictionaries, one for each name of its path."""
    for name in reversed(path):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `above` into `below`, section by section.

    An existing value that should be a section is kept, so that validation refuses it.
    """
    found = dict(below)
    for name, value in above.items():
        present = found.get(name)
        if not isinstance(value, dict) or present is None:
            found[name] = value
        elif isinstance(present, dict):
            found[name] = merged(present, value)
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested settings into pairs such as ("student.model", "smollm2-135m")."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def load_settings(kind: type[S], values: dict[str, Any], source: str) -> S:
    """Validate nested plain values; a `ConfigError` names the source and every invalid value."""
    try:
        return kind.model_validate(with_new_names(kind.__name__, values, source))
    except ValidationError as error:
        problems = "; ".join(_problem(details, kind) for details in error.errors())
        raise ConfigError(
            f"{source} is not valid: {problems}.", "Correct it; --help lists every setting."
        ) from None


def _problem(details: ErrorDetails, kind: type[Settings]) -> str:
    """Describe an invalid value without pydantic's terms."""
    where = ".".join(map(str, details["loc"])) or "settings"
    if details["type"] == "extra_forbidden":
        meant = " or ".join(_sections_with(where.replace("-", "_"), kind))
        return f"{where}: there is no such setting" + (f", but there is {meant}" if meant else "")
    # pydantic puts this prefix before the message of a ValueError.
    return f"{where}: {details['msg'].removeprefix('Value error, ')}"


def _sections_with(name: str, kind: type[Settings]) -> Iterator[str]:
    """Settings with this name inside a section, for files with flag names as keys."""
    for section, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Settings):
            yield from (
                f"{section}.{own}"
                for own in nested.model_fields
                if name in (own, f"{section}_{own}")
            )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file into plain values; raises a `ConfigError` if it is not a mapping."""
    with reading(ConfigError, f"Cannot read {path} as YAML", "Check the path and the file."):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a mapping.", "Write one 'name: value' per line.")
    return values
