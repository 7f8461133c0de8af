"""t-SNE: the same picture every time, the right rows, and nothing where there is nothing to see."""

import numpy as np
import pytest

from w2sdefense.report.maps import tsne

pytestmark = pytest.mark.usefixtures("real_maps")


def clouds(first: int = 40, second: int = 30) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        rng.normal(size=(first, 8)).astype(np.float32),
        rng.normal(size=(second, 8)).astype(np.float32) + 8,
    ]


def test_equal_features_give_equal_points():
    for (_, one), (_, other) in zip(tsne(clouds()), tsne(clouds()), strict=True):
        np.testing.assert_array_equal(one, other)


def test_groups_that_lie_apart_stay_apart():
    (_, first), (_, second) = tsne(clouds())
    assert first.shape == (40, 2) and second.shape == (30, 2)
    gap = np.linalg.norm(first.mean(0) - second.mean(0))
    assert gap > 2 * max(first.std(0).max(), second.std(0).max())


def test_large_groups_are_thinned_to_the_same_sorted_rows():
    found, again = (tsne(clouds(), max_points=20) for _ in range(2))
    assert [len(rows) for rows, _ in found] == [20, 20]
    for (rows, _), (same, _) in zip(found, again, strict=True):
        np.testing.assert_array_equal(rows, same)
        assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize(
    "groups",
    [
        [],
        [np.ones((3, 4), np.float32)],
        [np.ones((9, 4), np.float32)],
        [np.full((9, 4), np.nan, np.float32)],
    ],
)
def test_nothing_to_see(groups):
    assert tsne(groups) == []


def test_four_points_are_enough():
    ((_, points),) = tsne([np.eye(4, dtype=np.float32)])
    assert points.shape == (4, 2)
