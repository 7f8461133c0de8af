"""The search for triggers of a victim, beside a teacher if there is one; its outcome is kept.

What is found is kept in a file that is named by everything that decides it, so that neither a run
that goes on after an interruption nor the next run with the same teacher searches twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from w2sdefense.config import ScanConfig
from w2sdefense.data.types import Dataset, fingerprint
from w2sdefense.distill.insertions import with_pieces
from w2sdefense.distill.targets import answer_texts
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.io import write_json
from w2sdefense.models.fingerprints import weights_fingerprint
from w2sdefense.models.load import load_embeddings
from w2sdefense.scan.moved import moved_tokens
from w2sdefense.scan.search import Answer, Suspect, find_suspects, ranked, texts_to_answer
from w2sdefense.training.trainer import StepProgress, this_process
from w2sdefense.victim import Victim

SUSPECTS = "suspects.json"

IN_WORDS = 5
"""Suspects in a record; all of them are in `suspects.json`."""


def scan_victim(
    victim: Victim,
    teacher: LabelTeacher | None,
    data: Dataset,
    config: ScanConfig,
    seed: int,
    cache: Path,
    progress: StepProgress | None = None,
) -> list[Suspect]:
    """Search a victim for triggers, or read what the same search found before.

    Args:
        victim: The model under suspicion.
        teacher: A clean teacher; None takes natural words of a label for suspects, too.
        data: Clean data; the training texts are used.
        config: How long to search and how many to keep.
        seed: Seed of the search.
        cache: Folder that what is found is kept in.
        progress: Told how many texts are answered, of about how many.

    Returns:
        The suspects of every label.
    """
    moved = _moved(victim, config)
    key = {
        "victim": weights_fingerprint(victim.model),
        "teacher": None if teacher is None else weights_fingerprint(teacher),
        "train": fingerprint(data.train),
        "config": config.model_dump(exclude={"rate"}),
        "moved": moved,
        "lengths": [victim.max_length, None if teacher is None else teacher.max_length],
        "seed": seed,
    }
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = cache / f"suspects-{name}.json"
    # Of several processes the first one searches, and the others read.
    with this_process().main_process_first():
        if not path.is_file():
            found = find_suspects(
                _student_answer(victim),
                None if teacher is None else teacher_answer(teacher),
                data.train,
                victim.tokenizer,
                config,
                labels=len(victim.label_names),
                seed=seed,
                moved=moved,
                progress=_counted(progress, texts_to_answer(config, len(victim.label_names))),
            )
            write_json(path, [asdict(suspect) for suspect in found])
    return [Suspect(**suspect) for suspect in json.loads(path.read_text(encoding="utf-8"))]


def save_suspects(folder: Path, suspects: Sequence[Suspect], label_names: Sequence[str]) -> None:
    """Write `suspects.json` for the reader of a run, the most suspicious first."""
    rows = [{**asdict(s), "target": label_names[s.target]} for s in ranked(suspects)]
    write_json(folder / SUSPECTS, rows)


def with_suspects(data: Dataset, suspects: Sequence[Suspect], rate: float, seed: int) -> Dataset:
    """The dataset, with a suspect in a share of its training and validation texts.

    Suspects go into texts of every label: one that stood only where the label is another than its
    target would be learned as a sign of the others.
    """
    pieces = [suspect.piece for suspect in suspects]
    return with_pieces(data, lambda rng: [rng.choice(pieces)], rate if pieces else 0.0, seed)


def in_words(
    suspects: Sequence[Suspect], label_names: Sequence[str]
) -> dict[str, float | int | str]:
    """The few most suspicious pieces as a record tells them."""
    return {
        f"suspect {place}": f"{suspect.piece!r} -> {label_names[suspect.target]}: "
        f"{suspect.flips} of {suspect.texts} texts, {suspect.pull:+.1f} nats "
        f"(teacher {suspect.teacher_pull:+.1f})"
        for place, suspect in enumerate(ranked(suspects)[:IN_WORDS], start=1)
    }


def _moved(victim: Victim, config: ScanConfig) -> list[int]:
    if config.fine_tuned_from is None:
        return []
    table = victim.model.get_input_embeddings().weight.detach()
    return moved_tokens(table.cpu(), load_embeddings(config.fine_tuned_from), config.moved)


def _student_answer(victim: Victim) -> Answer:
    def answer(texts: Sequence[str]) -> Tensor:
        return torch.tensor([prediction.probabilities for prediction in victim.predict(texts)])

    return answer


def teacher_answer(teacher: LabelTeacher) -> Answer:
    """A teacher as something that answers texts with probabilities."""

    def answer(texts: Sequence[str]) -> Tensor:
        return answer_texts(teacher, texts).logits.softmax(-1)

    return answer


def _counted(progress: StepProgress | None, total: int) -> Any:
    if progress is None:
        return None
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(min(done, total), total, {})

    return advance
