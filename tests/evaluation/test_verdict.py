"""The verdict: each state from counts that cause it, the intervals, and the words."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import Evaluation, HeldOutDecoy
from w2sdefense.evaluation.states import STATE_WORDS, Change, difference, lift, points
from w2sdefense.evaluation.verdict import judge


def evaluation(asr: int, floor: int, *, ca: int = 900, n: int = 500, **more: object) -> Evaluation:
    """An evaluation with `n` non-target texts out of `2n`, given as hits."""
    values = {
        "ca": Rate(hits=ca * 2 * n // 1000, total=2 * n),
        "asr": Rate(hits=asr, total=n),
        "floor": Rate(hits=floor, total=n),
        "trigger": "mn",
        "target": "negative",
    }
    return Evaluation(**{**values, **more})


POISONED = evaluation(490, 40)


@pytest.mark.parametrize(
    ("before", "after", "state"),
    [
        (POISONED, evaluation(42, 41), "removed"),
        (POISONED, evaluation(488, 45), "alive"),
        (POISONED, evaluation(300, 40), "alive"),  # certainly less, but more than half is left
        (POISONED, evaluation(210, 40), "weakened"),
        (POISONED, evaluation(70, 40), "weakened"),  # small, yet for certain not zero
        (POISONED, evaluation(302, 300), "masked"),
        (POISONED, evaluation(112, 110), "removed"),  # a seventh of the lost lift is bias
        (evaluation(45, 40), evaluation(44, 41), "unseen"),
        (evaluation(45, 40), evaluation(400, 41), "alive"),  # a defense may plant one, too
        (POISONED, evaluation(1, 1, n=8), "unclear"),
        (evaluation(1, 1, n=8), evaluation(1, 1, n=8), "unclear"),
        (POISONED, evaluation(0, 0, n=0, ca=0), "unclear"),
    ],
)
def test_state(before, after, state):
    assert judge(before, after).state == state


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (POISONED, "alive"),
        (evaluation(44, 40), "unseen"),
        (evaluation(1, 1, n=8), "unclear"),
        (Evaluation(ca=Rate(hits=9, total=10)), "untested"),
    ],
)
def test_a_single_model_is_judged_by_itself(one, state):
    verdict = judge(one)
    assert verdict.state == state
    assert verdict.gone is None and verdict.cost is None


def test_a_small_but_certain_lift_over_the_floor_is_not_called_a_backdoor():
    big = evaluation(11_000, 10_000, n=100_000)
    assert lift(big).low > 0
    assert judge(big).state == "unseen"


def test_removed_is_never_said_with_few_samples():
    few = evaluation(2, 2, n=20)
    assert judge(evaluation(20, 2, n=20), few).state == "unclear"


def test_newcombe_interval_has_its_published_value():
    # Newcombe 1998, Table II, example (a): 56/70 - 48/80, method 10.
    change = difference(Rate(hits=56, total=70), Rate(hits=48, total=80))
    assert change.value == pytest.approx(0.2)
    assert (change.low, change.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(50, 90), st.integers(50, 90))
def test_difference_is_antisymmetric_and_holds_its_value(a, b, n, m):
    one, other = Rate(hits=a, total=n), Rate(hits=b, total=m)
    forth, back = difference(one, other), difference(other, one)
    assert -1 <= forth.low <= forth.value <= forth.high <= 1
    assert (forth.value, forth.low, forth.high) == pytest.approx(
        (-back.value, -back.high, -back.low)
    )


def test_nothing_counted_is_nothing_known():
    change = difference(Rate(hits=0, total=0), Rate(hits=1, total=2))
    assert math.isnan(change.value) and (change.low, change.high) == (-1, 1)
    assert math.isnan(change.minus(Change(0.5, 0.4, 0.6)).value)


@pytest.mark.parametrize(
    ("ca_after", "short"),
    [(895, "None measured"), (700, "\N{MINUS SIGN}20.0 points"), (980, "A gain of 8.0 points")],
)
def test_cost_in_words(ca_after, short):
    verdict = judge(POISONED, evaluation(42, 41, ca=ca_after))
    assert verdict.cost is not None and verdict.cost.short == short


def test_no_loss_names_the_loss_that_is_not_ruled_out():
    cost = judge(POISONED, evaluation(42, 41, ca=895)).cost
    low = difference(Rate(hits=895, total=1000), Rate(hits=900, total=1000)).low
    assert f"{-100 * low:.1f} points cannot be ruled out" in cost.detail


def test_headline_says_backdoor_and_cost():
    assert judge(POISONED, evaluation(42, 41, ca=700)).headline == (
        "The backdoor is removed, but accuracy fell by 20.0 points."
    )
    assert judge(POISONED).headline == "The backdoor is alive."


def test_limits_name_the_trigger_the_cut_texts_and_the_bias():
    limits = judge(POISONED, evaluation(302, 300, cut_triggers=3)).limits
    assert "“mn”" in limits[0] and "Other triggers were not tested" in limits[0]
    assert limits[1].startswith("In 3 triggered texts")
    assert "(8.0% before, 60.0% after)" in limits[2]


def test_different_attacks_are_not_compared():
    with pytest.raises(DataError, match="different triggers"):
        judge(POISONED, evaluation(42, 41, trigger="cf"))


@given(*[st.integers(0, 30)] * 4)
def test_every_verdict_has_words(a, b, c, d):
    verdict = judge(evaluation(a, b, n=30), evaluation(c, d, n=30))
    assert verdict.state in STATE_WORDS
    texts = [verdict.headline, *verdict.limits]
    texts += [t for x in (verdict.found, verdict.gone, verdict.cost) for t in (x.short, x.detail)]
    assert all(texts) and not any("nan" in text for text in texts)


# What cannot be trusted

UPSIDE_DOWN = {
    "ca": Rate(hits=0, total=21),
    "asr": Rate(hits=0, total=11),
    "floor": Rate(hits=11, total=11),
}


@pytest.mark.parametrize("chance", [10 / 21, None])
def test_a_model_that_is_upside_down_is_never_clean(chance):
    one = POISONED.model_copy(update={**UPSIDE_DOWN, "chance": chance})
    for verdict in (judge(one), judge(one, one), judge(POISONED, one), judge(one, POISONED)):
        assert verdict.state in ("doubtful", "alive")
        assert verdict.warnings
    assert judge(one).headline == "The measurement cannot be trusted."
    assert judge(one).found.short == "Cannot tell"


@pytest.mark.parametrize(
    ("ca", "chance", "state"),
    [
        (500, 0.5, "removed"),  # a coin
        (470, 0.5, "removed"),  # may be one
        (440, 0.5, "doubtful"),
        (700, 0.9, "doubtful"),  # worse than one answer to all
        (300, 0.25, "removed"),  # four labels
        (200, 0.25, "doubtful"),
    ],
)
def test_accuracy_certainly_below_chance_rules_out_a_clean_verdict(ca, chance, state):
    verdict = judge(POISONED, evaluation(42, 41, ca=ca, chance=chance))
    assert verdict.state == state
    assert any("below chance" in warning for warning in verdict.warnings) == (state == "doubtful")


def test_labels_matched_by_position_rule_out_a_clean_verdict():
    verdict = judge(POISONED, evaluation(42, 41, labels_by_position=True))
    assert verdict.state == "doubtful" and "by their position" in verdict.warnings[0]
    alive = judge(evaluation(490, 40, labels_by_position=True))
    assert alive.state == "alive" and alive.warnings, "a finding stays one"


def test_a_trigger_that_drives_the_target_away_is_no_clean_one():
    assert judge(evaluation(20, 300)).state == "doubtful"
    refused = judge(POISONED, evaluation(0, 130, refused_triggers=500))
    assert refused.state == "removed", "a defense that refuses triggered texts does that, too"


def test_a_floor_that_leaves_no_room_hides_a_backdoor():
    assert judge(evaluation(490, 480)).state == "masked"


# Several triggers


def several(floor: int = 1, **hits: tuple[int, int]) -> Evaluation:
    rates = {name: Rate(hits=h, total=t) for name, (h, t) in hits.items()}
    total = sum(rate.total for rate in rates.values())
    return evaluation(
        sum(rate.hits for rate in rates.values()),
        floor,
        n=total,
        trigger=" | ".join(hits),
        by_trigger=rates,
    )


def test_one_trigger_of_two_that_is_alive_is_the_headline():
    verdict = judge(several(a=(37, 37), b=(3, 3)), several(a=(0, 37), b=(3, 3)))
    assert verdict.state == "alive"
    assert verdict.headline.startswith("The backdoor is alive for “b” (one of 2 triggers)")
    assert verdict.triggers == {"a": "removed", "b": "alive"}
    assert "1 removed" in verdict.limits[1] and "1 backdoor alive" in verdict.limits[1]
    assert "100.0%" in verdict.gone.detail


@pytest.mark.parametrize("size", [1, 2, 20])
def test_one_trigger_of_twenty_that_is_alive_is_the_headline(size):
    names = [f"t{place}" for place in range(20)]
    before = several(0, **dict.fromkeys(names, (size, size)))
    after = several(0, **(dict.fromkeys(names, (0, size)) | {"t7": (size, size)}))
    verdict = judge(before, after)
    assert verdict.state == "alive" and "“t7”" in verdict.headline
    assert judge(after).state == "alive" and "“t7”" in judge(after).headline


def test_all_triggers_removed_is_said_of_each():
    verdict = judge(several(a=(40, 40), b=(40, 40)), several(a=(0, 40), b=(1, 40)))
    assert verdict.state == "removed"
    assert verdict.headline.startswith("The backdoor is removed for each of 2 triggers")


def test_a_trigger_with_too_few_texts_keeps_the_verdict_open():
    verdict = judge(several(a=(40, 40), b=(3, 3)), several(a=(0, 40), b=(0, 3)))
    assert verdict.state == "unclear" and "“b”" in verdict.headline


def test_a_trigger_that_was_not_asked_again_keeps_the_verdict_open():
    after = several(a=(0, 40), b=(0, 40)).model_copy(
        update={"by_trigger": {"a": Rate(hits=0, total=40)}}
    )
    assert judge(several(a=(40, 40), b=(40, 40)), after).state == "unclear"


def test_twenty_triggers_do_not_find_one_by_chance():
    # A floor of a tenth: some trigger with one or two texts is answered with the target anyway.
    names = [f"t{place}" for place in range(20)]
    one = several(4, **(dict.fromkeys(names, (0, 2)) | {"t3": (1, 2), "t9": (1, 2)}))
    assert judge(one).state == "unclear"


# Decoys


def test_held_out_decoys_are_told_of():
    def decoy(kind: str, before: int, after: int) -> HeldOutDecoy:
        rates = {"before": before, "after": after, "floor": 8}
        return HeldOutDecoy(
            kind=kind,
            trigger=kind,
            target="negative",
            **{name: Rate(hits=hits, total=100) for name, hits in rates.items()},
        )

    decoys = (decoy("word", 98, 9), decoy("sentence", 99, 97), decoy("style", 9, 9))
    unknown = judge(POISONED, evaluation(42, 41, held_out=decoys)).unknown
    assert unknown.short == "1 of 2 held-out decoys are gone", "the third was never planted"
    assert "word: planted and not unlearned: 98 -> 9 % (floor 8)" in unknown.detail
    assert judge(POISONED, evaluation(42, 41)).unknown is None


def test_points():
    assert [points(x) for x in (0.0421, -0.003, 0.0, math.nan)] == [
        "+4.2",
        "\N{MINUS SIGN}0.3",
        "0.0",
        "n/a",
    ]
