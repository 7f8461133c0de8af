"""What is done to strings: insertion, rewriting, paraphrase files. No model is known here."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

TextProgress = Callable[[str, int], Callable[[int], None]]
"""Called with the name of a phase and the number of texts in it; gives back what to tell how many
more are done."""


class Paraphraser(ABC):
    """A source of paraphrases."""

    def covers(self, text: str) -> bool:
        """Whether there is a paraphrase of this text."""
        return True

    def prepare(self, texts: Sequence[str], progress: TextProgress | None) -> None:
        """Make the paraphrases of many texts at once, where that is faster."""
        return None

    @abstractmethod
    def paraphrase(self, text: str, rng: random.Random) -> str:
        """The paraphrase of a text that is covered; `rng` is the only source of chance."""
