"""The contract of a task whose answer is text."""

from __future__ import annotations

from typing import Protocol


class Task(Protocol):
    """A way to ask, and a way to tell how good an answer is."""

    @property
    def metric(self) -> str:
        """The score that stands for the quality of an answer: a key of `scores`."""

    @property
    def metric_name(self) -> str:
        """What it is called in tables and sentences; "accuracy" stands in the column CA."""

    @property
    def all_or_nothing(self) -> bool:
        """Whether that score is 0 or 1, so that its mean is a share of answers."""

    @property
    def template(self) -> str:
        """The default prompt, `{text}` where the text goes, in the language of the data."""

    @property
    def target(self) -> str:
        """The default text that an attacker wants to come out."""

    def scores(self, answer: str, reference: str) -> dict[str, float]:
        """Scores of one answer, each in [0, 1].

        Args:
            answer: What the model wrote.
            reference: What it should have written.
        """

    def says(self, answer: str, target: str) -> bool:
        """Whether the target is what comes out.

        Args:
            answer: What the model wrote, or a reference: whether the target is right there anyway.
            target: What the attacker wants.
        """
