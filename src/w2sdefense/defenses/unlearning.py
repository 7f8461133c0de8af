"""What W2SDefense does with a fitted teacher: plant decoys, train the student."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from w2sdefense.data.checks import require_aligned
from w2sdefense.data.splits import limit
from w2sdefense.data.types import texts_of
from w2sdefense.defenses.base import DefenseKit
from w2sdefense.distill.decoys import Decoy, DecoyKind, decoy_targets, draw_decoys
from w2sdefense.distill.planted import Planted
from w2sdefense.distill.planting import plant, with_decoys
from w2sdefense.distill.student import Lessons, train_student
from w2sdefense.distill.targets import CachedTargets, doubt_about, targets_of
from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
from w2sdefense.scan.victim import found_triggers
from w2sdefense.victim import Victim

if TYPE_CHECKING:
    from w2sdefense.defenses.w2s import W2SDefense


KINDS: tuple[DecoyKind, ...] = ("word", "passage")


class Unlearning:
    """One run of W2SDefense, prepared: texts and the teacher's targets, but no teacher.

    Args:
        settings: The settings of the defense.
        victim: The poisoned model; it is taken over and changed.
        kit: Clean data, and where checkpoints and targets go.
        teacher: A fitted teacher, which is asked about the texts.

    Raises:
        DataError: The labels of the data are not in the model's order.
    """

    def __init__(
        self,
        settings: W2SDefense,
        victim: Victim,
        kit: DefenseKit,
        teacher: LabelTeacher | TokenTeacher,
    ) -> None:
        data = kit.data
        require_aligned(data, victim.label_names)
        self._settings, self._victim, self._kit = settings, victim, kit
        self._notes: tuple[str, ...] = ()
        # A file may be sorted by label; of a sample this is its beginning.
        data = replace(data, train=limit(data.train, settings.distill.student_rows, seed=0))
        asked = (data.train, data.validation)
        self._data = data
        self._targets = targets_of(teacher, victim.task, asked, kit.folder / "targets")
        if isinstance(self._targets, CachedTargets):
            said = self._targets.said(data.validation)
            if doubt := doubt_about(said, data.validation):
                warnings.warn(doubt, stacklevel=2)
                self._notes = (doubt,)

    def train(self) -> Victim:
        """Plant decoys, and train the student to unlearn them."""
        settings, kit, data = self._settings, self._kit, self._data
        config, seed = settings.decoys, settings.training.seed
        decoys = self._decoys()
        planted = None
        if config.plants:
            planted = plant(
                self._victim,
                decoys,
                data,
                kit.folder / "planting",
                seed=seed,
                progress=kit.progress_of("decoys"),
            )
            decoys = list(planted.decoys)
        student = self._student(decoys, planted)
        if config.found is not None:
            student.found["triggers unlearned"] = len(decoys)
        elif planted is not None:
            student.found["decoys"] = len(decoys)
            if planted.failed:
                student.notes += (f"decoys that could not be planted: {planted.lost}",)
        student.notes += self._notes
        return student

    def _decoys(self) -> list[Decoy]:
        """The triggers that a search found, or decoys that are drawn."""
        config, seed = self._settings.decoys, self._settings.training.seed
        if config.found is not None:
            names = self._victim.label_names
            found = found_triggers(config.found, names)
            return [Decoy("word", text, names.index(label)) for text, label in found]
        texts = texts_of(self._data.train)
        return draw_decoys(decoy_targets(self._data, seed), config.per_label, KINDS, seed, texts)

    def _student(self, decoys: Sequence[Decoy], planted: Planted | None) -> Victim:
        settings, kit, data = self._settings, self._kit, self._data
        train, validation = (
            with_decoys(rows, decoys, settings.decoys.rate, settings.training.seed + place)
            for place, rows in enumerate((data.train, data.validation))
        )
        return train_student(
            self._victim,
            Lessons(train, validation),
            self._targets,
            distill=settings.distill,
            adapter=settings.adapter,
            training=settings.training,
            folder=kit.folder,
            planted=planted,
            resume=kit.resume,
            progress=kit.progress_of("student"),
        )
