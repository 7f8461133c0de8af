"""What is done to strings: insertion, rewriting, paraphrase files. No model is known here."""

from __future__ import annotations

from collections.abc import Callable

TextProgress = Callable[[str, int], Callable[[int], None]]
"""Called with the name of a phase and the number of texts in it; gives back what to tell how many
more are done."""
