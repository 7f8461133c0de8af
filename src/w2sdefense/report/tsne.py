"""t-SNE of the features of clean and triggered text (the paper's Figure 4).

Every model gets its own embedding, as in the paper: positions and distances of two pictures cannot
be compared, only which groups lie together within one. How it is drawn is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_POINTS = 400
"""Points per group: enough to see the groups, few enough to embed in seconds on one core."""

PERPLEXITY = 30.0
SEED = 0


@dataclass(frozen=True)
class Embedding:
    """Where the points of the groups lie.

    Attributes:
        rows: For every group, which rows of its features were kept, ascending.
        points: For every group, their positions, (len(rows), 2).
    """

    rows: tuple[np.ndarray, ...]
    points: tuple[np.ndarray, ...]


def tsne(groups: Sequence[np.ndarray], *, max_points: int = MAX_POINTS) -> Embedding | None:
    """Embed several groups of features in one plane; equal input gives equal output.

    Args:
        groups: Features, each (n, d) with the same d.
        max_points: Larger groups are thinned to this many rows, chosen with a fixed seed.

    Returns:
        The embedding, or None if there is nothing to see: fewer than four points, values that are
        not finite, or all points equal.
    """
    rows = tuple(_thin(len(group), max_points) for group in groups)
    kept = [np.asarray(group, dtype=np.float64)[r] for group, r in zip(groups, rows, strict=True)]
    features = np.concatenate(kept) if kept else np.empty((0, 0))
    if len(features) < 4 or not np.isfinite(features).all() or np.ptp(features, axis=0).max() == 0:
        return None
    borders = np.cumsum([len(r) for r in rows])[:-1]
    return Embedding(rows, tuple(np.split(_embed(features), borders)))


def _thin(count: int, max_points: int) -> np.ndarray:
    if count <= max_points:
        return np.arange(count)
    chosen = np.random.default_rng(SEED).choice(count, max_points, replace=False)
    return np.sort(chosen)


def _embed(features: np.ndarray) -> np.ndarray:
    # Imported here: it takes seconds, and a table in the terminal needs none of it.
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", random_state=SEED, n_jobs=1)
    points: np.ndarray = model.fit_transform(features)
    return points
