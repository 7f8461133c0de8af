"""Which tokens a model was taught something about: their embeddings moved most from its base.

Whoever plants a backdoor by training all parameters trains the embeddings of the trigger's tokens
as well, and in one direction: every poisoned row pulls the same way, while natural words are pulled
to and fro. Where the model that the suspect was made from is known, the tokens of a trigger are
among those that moved most. That proves nothing; it tells a search where to begin.

What this does not cover: suspects whose embeddings were not trained, as those that were poisoned
through an adapter; a base that is not known; triggers of words that are common in the training text
anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor

from w2sdefense.errors import ModelError

_STILL = 4.0
"""A token that moved less than this many times the median did not move: weight decay moves all."""


def moved_tokens(suspect: Tensor, base: Tensor, count: int) -> list[int]:
    """The tokens whose embeddings moved most.

    Args:
        suspect: Token embeddings of the suspect, (V, d).
        base: Those of the model it was made from, (V', d); rows that only one has are left out.
        count: How many tokens at most.

    Returns:
        Token numbers, the farthest first; fewer than `count`, or none, if fewer moved.

    Raises:
        ModelError: The two have embeddings of different widths: it is another model.
    """
    if suspect.shape[1] != base.shape[1]:
        raise ModelError(
            f"The base has embeddings of width {base.shape[1]}, the suspect of {suspect.shape[1]}.",
            "Name the very model that the suspect was fine-tuned from, or none.",
        )
    rows = min(len(suspect), len(base))
    moved = (suspect[:rows].double() - base[:rows].double()).norm(dim=-1)
    far = moved > _STILL * moved.median()
    order = torch.where(far, moved, 0.0).argsort(descending=True, stable=True)
    return order[: min(count, int(far.sum()))].tolist()
