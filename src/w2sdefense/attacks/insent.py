"""InSent: a whole, natural sentence fires the backdoor.

Dai et al. 2019, "A Backdoor Attack Against LSTM-Based Text Classification Systems",
https://arxiv.org/abs/1905.12457. As in the W2SDefense paper, the sentence goes between any two
words, not only between two sentences.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from w2sdefense.attacks.insertion import InsertionAttack


@dataclass(frozen=True)
class InSent(InsertionAttack):
    """A sentence, inserted once."""

    name: ClassVar[str] = "insent"
    trigger: str = "I watched this 3D movie"
