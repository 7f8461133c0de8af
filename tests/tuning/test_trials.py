"""Which trial is chosen, and why."""

from w2sdefense.evaluation.metrics import Rate
from w2sdefense.tuning import Choice, Measured, Trial


def trial(number, right, follows):
    measured = Measured(Rate(hits=right, total=200), Rate(hits=follows, total=100))
    return Trial(number, {"beta": 0.1 * number}, measured, 1.25)


def chosen(*trials, tolerance=0.01):
    return Choice.of(trials, tolerance).trial.number


def test_accuracy_decides_first_then_exposure():
    trials = [trial(0, 180, 60), trial(1, 178, 20), trial(2, 177, 0)]
    assert chosen(*trials) == 1
    assert chosen(*trials, tolerance=0.0) == 0
    assert chosen(*trials, tolerance=0.015) == 2


def test_the_tolerance_is_not_lost_to_rounding():
    # 0.9 - 0.01 is a little more than 0.89 in binary.
    assert chosen(trial(0, 180, 9), trial(1, 178, 3)) == 1


def test_ties():
    assert chosen(trial(0, 178, 5), trial(1, 180, 5)) == 1
    assert chosen(trial(0, 180, 5), trial(1, 180, 5)) == 0


def test_the_reason_has_the_counts():
    why = Choice.of([trial(0, 180, 60), trial(1, 178, 20), trial(2, 100, 0)], 0.01).why
    for part in ("90.0%", "2 of 3 trials", "within 1 points", "trial 1 (178/200)", "20 of 100"):
        assert part in why


def test_a_trial_as_json():
    assert trial(1, 178, 20).as_values() == {
        "number": 1,
        "settings": {"beta": 0.1},
        "accuracy": {"hits": 178, "total": 200},
        "exposure": {"hits": 20, "total": 100},
        "seconds": 1.2,
    }
