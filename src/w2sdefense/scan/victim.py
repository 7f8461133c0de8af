"""Searches a victim for triggers that a clean teacher does not follow, and caches the result.

The name of the cache file is a hash of everything that affects the result, so no search runs twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from w2sdefense.config import ScanConfig
from w2sdefense.data.types import Dataset, fingerprint, texts_of
from w2sdefense.distill.targets import answer_texts
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.errors import DataError, reading
from w2sdefense.io import read_json, readable, write_json
from w2sdefense.models.features import backbone_of
from w2sdefense.models.tokenizer import position_limit
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.scan.candidates import CandidateList, list_candidates, token_texts
from w2sdefense.scan.groups import Score, Scorers
from w2sdefense.scan.origin import base_on_card, folder_of, suspicious_tokens
from w2sdefense.scan.search import ScanResult, find_triggers, ranked, texts_to_answer, triggers
from w2sdefense.training.trainer import StepProgress, this_process
from w2sdefense.victim import Victim

CANDIDATES = "candidates.json"

ROOM = 128  # a search reads at least this many tokens of a text, if the model has the positions
CARRIER_TOKENS = 32  # tokens reserved for the words around a group and for special tokens


def scan_victim(
    victim: Victim,
    teacher: LabelTeacher,
    data: Dataset,
    config: ScanConfig,
    seed: int,
    cache: Path,
    progress: StepProgress | None = None,
    say: Callable[[str], None] | None = None,
) -> ScanResult:
    """Search a victim for triggers with clean training texts, or read the cached result.

    `progress` receives the number of answered texts and the approximate total; `say` receives a
    description of the search before it begins.

    Returns:
        The best candidates of every label, and what was tried.
    """
    texts = texts_of(data.train)
    listed = list_candidates(victim.tokenizer, texts, config.kinds)
    config = _fitted(config, victim, listed)
    base, origin = _base(victim, config)
    tokens = [] if base is None else suspicious_tokens(victim.model, base, config.base_tokens)
    key = {
        "victim": weights_fingerprint(victim.model),
        "teacher": weights_fingerprint(teacher),
        "train": fingerprint(data.train),
        "config": config.model_dump(),
        "tokens": tokens,
        "lengths": [victim.max_length, teacher.max_length],
        "seed": seed,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"candidates-{name}.json"
    outcomes = len(victim.label_names)
    total = texts_to_answer(config, len(listed.texts), outcomes)
    # Of several processes, the main one searches and the others read its result.
    with this_process().main_process_first():
        if (found := readable(lambda: _read(path))) is None:
            if say is not None:
                say(plan_in_words(listed, config.group_size, total, origin))
            result = find_triggers(
                _scorers(victim, teacher, total, progress),
                texts,
                listed,
                config,
                outcomes=outcomes,
                seed=seed,
                suspicious=token_texts(victim.tokenizer, tokens),
            )
            write_json(path, asdict(replace(result, origin=origin)))
            found = _read(path)
    return found


def _read(path: Path) -> ScanResult:
    return ScanResult.from_values(read_json(path))


def save_candidates(folder: Path, result: ScanResult, label_names: Sequence[str]) -> None:
    """Write `candidates.json` for the user: what was tried, and the best candidates."""
    found = triggers(result)
    rows = [
        {"text": c.text, "label": label_names[c.outcome], "excess": c.excess, "trigger": c in found}
        | {name: getattr(c, name) for name in ("shift", "teacher_shift", "flips", "texts")}
        for c in ranked(result.candidates)
    ]
    write_json(folder / CANDIDATES, asdict(result) | {"candidates": rows})


def found_triggers(folder: Path, names: Sequence[str] | None) -> list[tuple[str, str]]:
    """The triggers that a search found, each with the label that it causes.

    Args:
        folder: Output of `w2s scan`.
        names: Labels of the model to clean, if they are known.

    Raises:
        DataError: The folder has no search, the search found nothing, or it has other labels.
    """
    path = folder / CANDIDATES
    with reading(DataError, f"{path} cannot be read", "Name the folder of a finished w2s scan."):
        rows = json.loads(path.read_text(encoding="utf-8"))["candidates"]
        found = [(str(row["text"]), str(row["label"])) for row in rows if row["trigger"]]
    if not found:
        raise DataError(
            f"{path} lists no trigger.",
            "Omit --decoys-found: decoys do not need a known trigger.",
        )
    if names is not None and (other := {label for _, label in found} - set(names)):
        raise DataError(
            f"{path} is for another model: this one has no label {sorted(other)[0]!r}.",
            f"Search this model with w2s scan. Its labels are {', '.join(names)}.",
        )
    return found


def plan_in_words(listed: CandidateList, size: int, total: int, origin: str | None) -> str:
    """Describe what a search will try, and how much work that is."""
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in listed.counts().items() if count)
    plan = (
        f"Trying {len(listed.texts):,} candidate triggers ({kinds}), {size} in a text, "
        f"then the best singly: {total:,} short texts."
    )
    return f"{origin} {plan}" if origin else plan


def teacher_score(teacher: LabelTeacher) -> Score:
    """A `Score` that returns a teacher's log-probabilities of the labels."""

    def score(texts: Sequence[str]) -> Tensor:
        return answer_texts(teacher, texts).logits.log_softmax(-1)

    return score


def _base(victim: Victim, config: ScanConfig) -> tuple[str | None, str | None]:
    """The base that the user names, or else the one on the card if the weights confirm it."""
    if config.fine_tuned_from is not None:
        return config.fine_tuned_from, None
    embeddings = backbone_of(victim.model).get_input_embeddings().weight
    return base_on_card(folder_of(victim.model), embeddings.detach().cpu().float())


def _room(victim: Victim) -> int:
    """Length limit of a text in the search, in tokens."""
    return max(victim.max_length, min(ROOM, position_limit(victim.model) or ROOM))


def _fitted(config: ScanConfig, victim: Victim, listed: CandidateList) -> ScanConfig:
    """The settings with a group size at which no text is cut: a cut candidate is not tried."""
    words = [f" {text}" for text in listed.texts]
    longest = max(map(len, victim.tokenizer(words, add_special_tokens=False)["input_ids"]))
    size = max(1, (_room(victim) - CARRIER_TOKENS) // longest)
    return config.model_copy(update={"group_size": min(config.group_size, size)})


def _scorers(
    victim: Victim, teacher: LabelTeacher, total: int, progress: StepProgress | None
) -> Scorers:
    """The scoring functions of both models; the suspect's reports progress."""
    task: Any = replace(cast(Any, victim.task), max_length=_room(victim))
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        if progress is not None:
            progress(min(done, total), total, {})

    def score(texts: Sequence[str]) -> Tensor:
        answers = task.predict(victim.model, texts, advance)
        return torch.tensor([answer.probabilities for answer in answers]).log()

    return Scorers(score, teacher_score(teacher))
