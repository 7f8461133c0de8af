"""A model behind an input defense: every text passes a guard before the model reads it.

A guard rewrites a text or refuses it. Guards compose: what is guarded can be guarded again, and the
outer guard reads the text first. What a guard costs is paid at every prediction, so its time goes
with every answer. How a guard decides is the business of the defense that makes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from w2sdefense.data.types import REFUSED

if TYPE_CHECKING:
    from w2sdefense.tasks import Prediction, Task
    from w2sdefense.victim import Victim

Guard = Callable[[Sequence[str]], Sequence[str | None]]
"""For every text, in order: what the model is to read instead; None refuses the text."""

CHUNK = 128
"""Texts that pass the guard together: enough for full batches, few enough to show progress."""


def victim_of(model: Victim | Guarded) -> Victim:
    """The model itself, without the guards before it."""
    return model.victim if isinstance(model, Guarded) else model


class Guarded:
    """A victim behind one guard or several.

    Args:
        inner: The victim, or what another input defense made of it.
        guard: What texts pass first.
        found: What the defense chose or found out, for the record.
        notes: What a reader must know about it.
        history: Log of what was trained for the guard; default: that of `inner`.
    """

    def __init__(
        self,
        inner: Victim | Guarded,
        guard: Guard,
        *,
        found: dict[str, float | int | str] | None = None,
        notes: tuple[str, ...] = (),
        history: list[dict[str, float]] | None = None,
    ) -> None:
        self._inner = inner
        self._guard = guard
        self.victim: Victim = victim_of(inner)
        self.found: dict[str, float | int | str] = {**inner.found, **(found or {})}
        self.notes: tuple[str, ...] = (*inner.notes, *notes)
        self.history: list[dict[str, float]] = inner.history if history is None else history

    @property
    def task(self) -> Task:
        """What the model does."""
        return self.victim.task

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, by index; none where answers are texts."""
        return self.victim.label_names

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text that the guard lets pass, in order.

        Args:
            texts: Raw texts.
            progress: Called with the number of texts answered since the last call.

        Returns:
            One prediction per text. A refused text has the label `REFUSED`; its feature and its
            probabilities are those of the text as it came.
        """
        answers = []
        for start in range(0, len(texts), CHUNK):
            answers += self._predict_chunk(texts[start : start + CHUNK], progress)
        return answers

    def _predict_chunk(
        self, texts: Sequence[str], progress: Callable[[int], None] | None
    ) -> list[Prediction]:
        began = time.perf_counter()
        passed = self._guard(texts)
        seconds = (time.perf_counter() - began) / len(texts)
        read = [text if new is None else new for text, new in zip(texts, passed, strict=True)]
        return [
            replace(
                answer,
                answer=REFUSED if new is None else answer.answer,
                # An inner guard that changed the text again has the last word.
                read=answer.read or (said if said != text else None),
                defense_seconds=answer.defense_seconds + seconds,
            )
            for text, said, new, answer in zip(
                texts, read, passed, self._inner.predict(read, progress), strict=True
            )
        ]
