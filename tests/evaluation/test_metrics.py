"""CA, ASR and floor against values that were computed by other means."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.evaluation.metrics import Z_95, Rate, accuracy, wilson_interval

COUNTS = st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", Table I,
        # method 3; digits beyond his four from scipy.stats.binomtest(...).proportion_ci("wilson").
        (81, 263, 0.25528852, 0.36620958),
        (15, 148, 0.06238640, 0.16048724),
        (0, 20, 0.0, 0.16112516),
        (1, 29, 0.00611321, 0.17175522),
        (29, 29, 0.88303020, 1.0),
    ],
)
def test_wilson_interval_has_the_published_values(hits, total, low, high):
    assert wilson_interval(hits, total) == pytest.approx((low, high), abs=5e-9)


@given(COUNTS)
def test_the_bounds_are_the_shares_at_z_standard_errors(counts):
    """Wilson's definition: the bounds p solve |share - p| = z * sqrt(p (1 - p) / n)."""
    hits, total = counts
    for p in wilson_interval(hits, total):
        distance = Z_95 * math.sqrt(p * (1 - p) / total)
        assert abs(hits / total - p) == pytest.approx(distance, abs=1e-7)


@given(COUNTS)
def test_the_interval_holds_the_share_and_stays_in_bounds(counts):
    rate = Rate(hits=counts[0], total=counts[1])
    low, high = rate.interval
    assert 0.0 <= low <= rate.value <= high <= 1.0


def test_nothing_counted_is_not_a_number():
    assert math.isnan(Rate(hits=0, total=0).value)
    assert Rate(hits=0, total=0).interval == (0.0, 1.0)


def test_a_rate_shows_where_it_comes_from():
    assert str(Rate(hits=15, total=148)) == "10.1% [6.2%, 16.0%] (15/148)"


def test_accuracy_counts_true_labels():
    assert accuracy([0, 1, 1], [0, 1, 0]) == Rate(hits=2, total=3)


def test_a_missing_prediction_is_not_passed_over():
    with pytest.raises(ValueError, match="argument 2 is longer"):
        accuracy([0], [0, 1])
