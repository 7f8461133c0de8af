"""What W2SDefense does with a fitted teacher: search, plant decoys, train the student."""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from w2sdefense.data.checks import require_aligned
from w2sdefense.data.splits import limit
from w2sdefense.data.types import Answer, Dataset, texts_of
from w2sdefense.defenses.base import DefenseKit
from w2sdefense.distill.decoys import RESERVED, Decoy, DecoyKind, draw_decoys
from w2sdefense.distill.planting import Planted, count_flips, plant, with_decoys
from w2sdefense.distill.student import Lessons, train_student
from w2sdefense.distill.targets import CachedTargets, doubt_about, targets_of
from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
from w2sdefense.distill.wordings import with_wordings
from w2sdefense.scan.victim import in_words, save_candidates, scan_victim, with_candidates
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import HeldOut, Victim

if TYPE_CHECKING:
    from w2sdefense.defenses.w2s import W2SDefense


UNLEARNED: tuple[DecoyKind, ...] = ("word", "passage")
HELD_OUT: tuple[DecoyKind, ...] = ("passage", "frame")
"""Kinds of the decoys that are unlearned, and of those that are not. A held-out word would say
nothing: a decoy word is gone long before a real one is (docs/LOG.md)."""


class Unlearning:
    """One run of W2SDefense, prepared: texts and the teacher's targets, but no teacher.

    Args:
        settings: The settings of the defense.
        victim: The poisoned model; it is taken over and changed.
        kit: Clean data, and where checkpoints and targets go.
        teacher: A fitted teacher, which is asked about the texts.
        cache: Where what a search finds is kept.

    Raises:
        DataError: The labels of the data are not in the model's order.
    """

    def __init__(
        self,
        settings: W2SDefense,
        victim: Victim,
        kit: DefenseKit,
        teacher: LabelTeacher | TokenTeacher,
        cache: Path,
    ) -> None:
        data, seed, result = kit.data, settings.training.seed, None
        require_aligned(data, victim.label_names)
        self._settings, self._victim, self._kit = settings, victim, kit
        self._found: dict[str, float | int | str] = {}
        self._notes: tuple[str, ...] = ()
        # A search compares label probabilities, which text answers do not have.
        if settings.scan.rate and isinstance(teacher, LabelTeacher):
            told = kit.progress_of("scan")
            result = scan_victim(victim, teacher, data, settings.scan, seed, cache, told)
            self._found = in_words(result, victim.label_names)
            if this_process().is_main_process:
                save_candidates(kit.folder, result, victim.label_names)
        # A file may be sorted by label; of a sample this is its beginning.
        data = replace(data, train=limit(data.train, settings.distill.student_rows, seed=0))
        # First, as long as all texts begin and end with the prompt.
        data = with_wordings(data, settings.wordings, seed)
        if result is not None:
            data = with_candidates(data, result.candidates, settings.scan.rate, seed)
        asked = (data.train, data.validation)
        self._data = data
        self._targets = targets_of(teacher, victim.task, asked, kit.folder / "targets")
        if isinstance(self._targets, CachedTargets):
            said = self._targets.said(data.validation)
            if doubt := doubt_about(said, data.validation):
                warnings.warn(doubt, stacklevel=2)
                self._notes = (doubt,)

    def train(self) -> Victim:
        """Plant decoys, train the student to unlearn them, and take the rest out again."""
        settings, kit, data = self._settings, self._kit, self._data
        config, seed = settings.decoys, settings.training.seed
        unlearned, held = self._draw()
        planted = None
        if config.plant and unlearned:
            planted = plant(
                self._victim,
                [*unlearned, *held],
                data,
                kit.folder / "planting",
                seed=seed,
                progress=kit.progress_of("decoys"),
            )
            unlearned = [decoy for decoy in unlearned if decoy in planted.decoys]
        train, validation = (
            with_decoys(rows, unlearned, config.rate, seed + place)
            for place, rows in enumerate((data.train, data.validation))
        )
        student = train_student(
            self._victim,
            Lessons(train, validation),
            self._targets,
            distill=settings.distill,
            adapter=settings.adapter,
            training=settings.training,
            folder=kit.folder,
            resume=kit.resume,
            progress=kit.progress_of("student"),
        )
        if planted is not None:
            student.held_out = _held_out(student, planted, held, data, seed)
            planted.take_out(student.model)
            student.found["decoys"] = len(unlearned)
            if planted.failed:
                names = ", ".join(repr(decoy.value) for decoy in planted.failed)
                student.notes += (f"decoys that could not be planted: {names}",)
        student.found |= self._found
        student.notes += self._notes
        return student

    def _draw(self) -> tuple[list[Decoy], list[Decoy]]:
        """Decoys to unlearn, and decoys that are planted only."""
        config, seed, data = self._settings.decoys, self._settings.training.seed, self._data
        targets: list[Answer] = list(range(len(data.label_names)))
        if not targets:
            # A text has no label: decoys ask for answers that belong to other texts.
            answers = list(dict.fromkeys(example.answer for example in data.train))
            targets = random.Random(f"decoys/{seed}").sample(answers, min(2, len(answers)))
        texts = texts_of(data.train)
        unlearned = draw_decoys(targets, config.per_label, UNLEARNED, seed, texts)
        taken = RESERVED | {decoy.value for decoy in unlearned}
        held = draw_decoys(targets, config.held_out, HELD_OUT, seed + 1, texts, reserved=taken)
        return unlearned, held


def _held_out(
    student: Victim, planted: Planted, held: Sequence[Decoy], data: Dataset, seed: int
) -> tuple[HeldOut, ...]:
    """What is left of the decoys that were not unlearned, while the planted weights are there."""
    before = dict(zip(planted.decoys, planted.flips, strict=True))
    kept = [decoy for decoy in held if decoy in before]
    after = count_flips(student, kept, data.validation, seed)
    return tuple(
        HeldOut(decoy.kind, decoy.value, decoy.target, before[decoy], flips)
        for decoy, flips in zip(kept, after, strict=True)
    )
