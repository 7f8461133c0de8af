"""The model card of a cleaned model: README.md next to the adapter and in `merged/`.

Every number comes from the records of the two measurements. The card states what was suspected,
done and measured, what was not tried, how to load the model and how to reproduce it. Strings from
records, models and datasets are untrusted: a YAML library writes the header, and all other strings
are escaped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from w2sdefense.data.hub import split_hub_id
from w2sdefense.evaluation.metrics import Quality
from w2sdefense.evaluation.record import MERGED, Record
from w2sdefense.evaluation.states import STATE_WORDS
from w2sdefense.evaluation.verdict import judge
from w2sdefense.io import write_text
from w2sdefense.models.embedded import EMBEDDED
from w2sdefense.report.runs import TITLES, method_of
from w2sdefense.report.tables import cell, templates

CARD = "README.md"

WEIGHTS = ("model*.safetensors", "adapter*.safetensors")


@dataclass(frozen=True)
class Cleaning:
    """What the card of a cleaned model reports."""

    before: Record  # of the suspect model
    after: Record  # of the cleaned model
    settings: Mapping[str, Any]  # those of the run that differ from the defaults, to reproduce it
    # the folders that the suspect was read from: its own, then that of its base
    sources: Sequence[Path] = ()


def write_card(folder: Path, cleaning: Cleaning) -> list[Path]:
    """Write the card of a cleaned model into each folder with weights; returns the files.

    `folder` is that of `w2s defend`: adapter or whole model, possibly with `merged/`.
    """
    folders = [folder / MERGED, folder]
    found = [each for each in folders if any(weights_in(each))]
    for each in found:
        write_text(each / CARD, model_card(each, cleaning))
    return [each / CARD for each in found]


def model_card(folder: Path, cleaning: Cleaning, address: str | None = None) -> str:
    """The card of the model in a folder, as Markdown with a YAML header.

    `address` is where the model is published; the card then contains no path of this machine.
    """
    before, after, settings = cleaning.before, cleaning.after, cleaning.settings
    input_files = [found for source in cleaning.sources for found in _hashes(source)]
    if address is not None:
        before, after = (Record.model_validate(public(r.model_dump())) for r in (before, after))
        settings = public(dict(settings))
    student = after.config.get("student", {})
    suspect = _one_line(student.get("model"))
    load_from, revision = _load_from(suspect, cleaning.sources if address is None else ())
    header = yaml.safe_dump(
        _metadata(folder, suspect, after), sort_keys=False, allow_unicode=True, width=10_000
    )
    verdict, method = judge(before.evaluation, after.evaluation), method_of(after)
    environment = templates(html=False)
    environment.filters["code"] = code
    template = environment.get_template("card.md.j2")
    return f"---\n{header}---\n\n" + template.render(
        name=_name(folder),
        suspect=suspect,
        method=TITLES.get(method, method),
        verdict=verdict,
        state_words=STATE_WORDS,
        before=before,
        after=after,
        rows=_rows(before, after),
        is_adapter=_is_adapter(folder),
        is_label=after.label_names != (),
        # If the suspect was an adapter, the new adapter fits only the merged suspect.
        needs_merged=_is_adapter(folder) and student.get("base") is not None,
        merged=str(folder / MERGED),
        load_from=load_from,
        revision=revision,
        address=address or str(folder),
        template_kept=_has_chat_template(folder),
        settings=_fenced(yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)),
        input_files=input_files,
        output_files=list(_hashes(folder)),
    )


def _load_from(spec: str, sources: Sequence[Path]) -> tuple[str, str | None]:
    """Arguments of `from_pretrained` for a suspect: a folder or hub id, and the revision."""
    if sources and (spec in EMBEDDED or spec.endswith(".gguf")):
        return str(sources[0]), None
    if spec in EMBEDDED:
        return EMBEDDED[spec].hub_id, None
    on_hub = None if Path(spec).is_dir() else split_hub_id(spec)
    return on_hub or (spec, None)


def _on_hub(name: str) -> str:
    """The hub id of a model or dataset; for a path, its last part."""
    if name in EMBEDDED:
        return EMBEDDED[name].hub_id
    on_hub = split_hub_id(name)
    if _is_path(name):
        return Path(name).name
    return on_hub[0] if on_hub else name


def _is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


# Absolute paths inside a sentence, but not addresses such as hf://owner/name.
_IN_SENTENCE = re.compile(r"(?<!\w)(?<!:/)(?!//\w)(?:/|[A-Z]:\\)[^\s\"'`,;()]+")
_CACHED = re.compile(r"models--(.+?)[/\\]snapshots[/\\]")


def public(values: Any) -> Any:
    """Replace the paths of this machine in plain values by their last parts.

    A path is a string, or a word of a sentence, that is absolute or exists here. A path in the
    hub's cache becomes the hub id.
    """
    texts: list[str] = []
    _mapped(values, texts.append)
    words = [word for text in texts for word in (text, *_IN_SENTENCE.findall(text))]
    paths = sorted(filter(_is_path, set(words)), key=len, reverse=True)
    names = {path: _public_name(path) for path in paths}

    def renamed(text: str) -> str:
        for path, name in names.items():
            text = text.replace(path, name)
        return text

    return _mapped(values, renamed)


def _public_name(path: str) -> str:
    cached = _CACHED.search(path)
    return cached[1].replace("--", "/") if cached else Path(path).name


def _mapped(values: Any, change: Callable[[str], Any]) -> Any:
    """Plain values with another text in place of every text and path."""
    if isinstance(values, str | Path):
        return change(str(values))
    if isinstance(values, Mapping):
        return {key: _mapped(value, change) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_mapped(value, change) for value in values]
    return values


def _is_path(text: str) -> bool:
    if not any(mark in text for mark in ("/", "\\")):
        return False
    try:
        path = Path(text).expanduser()
        return path.is_absolute() or path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, no home, a zero byte
        return False


def _name(folder: Path) -> str:
    return folder.parent.name if folder.name == MERGED else folder.name


def _one_line(name: object) -> str:
    return "unknown" if name is None else " ".join(str(name).split())


def _metadata(folder: Path, suspect: str, after: Record) -> dict[str, Any]:
    """The YAML header in the format of the hub."""
    evaluation, is_adapter = after.evaluation, _is_adapter(folder)
    dataset = _one_line(after.config.get("data", {}).get("dataset"))
    task = "text-classification" if after.label_names else "text-generation"
    metrics = [
        {"type": kind, "name": name, "value": round(100 * quality.value, 2)}
        for kind, name, quality in _metrics(after)
    ]
    return {
        "base_model": _on_hub(suspect),
        "base_model_relation": "adapter" if is_adapter else "finetune",
        "datasets": [_on_hub(dataset)],
        "library_name": "peft" if is_adapter else "transformers",
        "pipeline_tag": task,
        "tags": ["backdoor-defense", "w2sdefense", method_of(after)],
        "model-index": [
            {
                "name": _name(folder),
                "results": [
                    {
                        "task": {"type": task, "name": evaluation.task},
                        "dataset": {"type": _on_hub(dataset), "name": dataset},
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


def _metrics(record: Record) -> Iterator[tuple[str, str, Quality]]:
    evaluation = record.evaluation
    yield evaluation.metric.lower(), f"{evaluation.metric} on clean text", evaluation.ca
    if evaluation.asr is not None and evaluation.asr.total:
        yield "attack_success_rate", "attack success rate", evaluation.asr
    if evaluation.floor is not None and evaluation.floor.total:
        yield "floor", "the target without the trigger (floor)", evaluation.floor
    for decoy in evaluation.held_out:
        yield "held_out_decoy", f"held-out decoy: {decoy.kind}", decoy.after


def _rows(before: Record, after: Record) -> list[tuple[str, str, str]]:
    """Rows of the results table: metric, before, after, with intervals and counts."""
    one, other = before.evaluation, after.evaluation
    rows: list[tuple[str, Quality | None, Quality | None]] = [
        (f"{other.metric} on clean text", one.ca, other.ca),
        ("ASR (with the trigger)", one.asr, other.asr),
        ("floor (without it)", one.floor, other.floor),
    ]
    rows += [
        (f"ASR of “{trigger}”", one.by_trigger.get(trigger), rate)
        for trigger, rate in other.by_trigger.items()
    ]
    rows += [
        (f"held-out decoy ({d.kind}), floor {d.floor.value:.1%}", d.before, d.after)
        for d in other.held_out
    ]
    return [(name, str(cell(a)), str(cell(b))) for name, a, b in rows]


def weights_in(folder: Path) -> Iterator[Path]:
    """The weight files in a folder."""
    for pattern in WEIGHTS:
        yield from sorted(folder.glob(pattern))


def _hashes(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and SHA-256 of the weight files in a folder; none if it is not a folder."""
    for path in weights_in(folder):
        with path.open("rb") as file:
            yield path.name, hashlib.file_digest(file, "sha256").hexdigest()


def _has_chat_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    return (folder / "chat_template.jinja").is_file() or (
        config.is_file() and '"chat_template"' in config.read_text("utf-8", errors="replace")
    )


def code(text: object) -> str:
    """Any text as inline code in Markdown."""
    plain = " ".join(str(text).split())
    fence = "`" * (1 + max((len(ticks) for ticks in re.findall("`+", plain)), default=0))
    space = " " if "`" in plain else ""
    return f"{fence}{space}{plain}{space}{fence}".replace("|", "\\|")


def _fenced(text: str) -> str:
    """Text as a fenced YAML block, with a fence that the text does not contain."""
    fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", text)), default=0))
    return f"{fence}yaml\n{text}{fence}"
