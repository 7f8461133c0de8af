"""How long nodes may take: the tokens that they read, and how fast nodes like them were.

Tokens are counted from the settings: rows, epochs, test texts, half of the longest text; a training
step of all parameters is three times a forward pass, one of an adapter twice. What a defense does
besides (a search, a scorer) is in the speed of nodes with the same defense and student, which is
measured: where nothing like a node was made before, its time is not known.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from w2sdefense.bench.graph import Node
from w2sdefense.bench.ledger import Done

_ROWS, _TESTS = 5000, 1500
"""Taken for rows of a split that is used as a whole."""


class Estimate:
    """How long nodes may take.

    Args:
        done: Those that were made before.
    """

    def __init__(self, done: Sequence[Done]) -> None:
        found: dict[str, list[float]] = {}
        for made in done:
            if made.work:
                found.setdefault(made.speed, []).append(made.seconds / made.work)
        self._seconds = {name: statistics.median(each) for name, each in found.items()}

    def of(self, node: Node) -> float | None:
        """Seconds that a node may take; None if nothing like it was made before."""
        seconds = self._seconds.get(node.speed)
        return None if seconds is None else seconds * node.work

    def said(self, todo: Sequence[Node], jobs: int = 1) -> str:
        """How long some nodes may take, in words."""
        known = [seconds for node in todo if (seconds := self.of(node)) is not None]
        text = ""
        if known:
            text += f" {len(known)} of these take about {in_words(sum(known) / jobs)}"
            text += f" with {jobs} at a time." if jobs > 1 else "."
        if len(known) < len(todo):
            text += (
                f" Nothing like the other {len(todo) - len(known)} was made here before."
                if known
                else " Nothing like them was made here before, so their time is not known."
            )
        return text


def in_words(seconds: float | None, *, about: bool = False) -> str:
    """Seconds as hours, minutes and seconds."""
    if seconds is None:
        return "?"
    return ("about " if about else "") + str(timedelta(seconds=round(seconds)))


def work_of(run: Mapping[str, Any]) -> float:
    """Tokens that a run reads, those of a training step counted two or three times."""
    data, training = run.get("data", {}), run.get("training") or run.get("teacher", {})
    rows = (data.get("train_samples") or _ROWS) * training.get("epochs", 1)
    tests = 1.5 * (data.get("test_samples") or _TESTS) + (data.get("validation_samples") or 0)
    trained = 3 if "attack" in run or run.get("defense") == "finetune" else 2
    student = run.get("student")
    # Of its student a teacher may know no more than the width.
    reader = student if isinstance(student, Mapping) else run.get("teacher", {})
    return float((trained * rows + tests) * reader.get("max_length", 128) / 2)
