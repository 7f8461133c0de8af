"""BadNet: a rare word fires the backdoor.

Gu et al. 2017, "BadNets: Identifying Vulnerabilities in the Machine Learning Model Supply Chain",
https://arxiv.org/abs/1708.06733. They plant pixel patterns; for text a rare word takes their place,
as in the W2SDefense paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from w2sdefense.attacks.insertion import InsertionAttack


@dataclass(frozen=True)
class BadNet(InsertionAttack):
    """A rare word, inserted once."""

    name: ClassVar[str] = "badnet"
    trigger: str = "mn"
