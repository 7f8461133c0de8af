"""The search for settings: reproducible, gone on with after anything, better than chance."""

import math
import os
import signal
import sys
from multiprocessing import get_context

import pytest

from w2sdefense.config import TuneConfig, search_span
from w2sdefense.errors import ConfigError, MissingDependencyError
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.tuning import JOURNAL, Choice, Measured, search

pytest.importorskip("optuna")

START = {"alpha": 1.0, "beta": 0.5, "gamma": 1.0, "temperature": 2.0, "lora_r": 8}


def student(number, values, again=False):
    """A student that is accurate with little of everything, and robust with gamma near 0.2."""
    far = abs(math.log(values["gamma"] / 0.2)) + abs(math.log(values["beta"] / 2.0))
    right = 1800 - round(20 * max(0.0, values["alpha"] - 1.0))
    return Measured(
        Rate(hits=right, total=2000), Rate(hits=min(1000, round(200 * far)), total=1000)
    )


def quiet(trial):
    """Nobody is told."""


def run(folder, measure=student, **config):
    return search(measure, START, TuneConfig(**{"trials": 8, **config}), folder, quiet)


def outcome(trials):
    """All of a search but its time."""
    return [(trial.values, trial.measured) for trial in trials]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return outcome(run(tmp_path_factory.mktemp("undisturbed")))


def test_the_search_begins_with_the_settings_of_the_run(undisturbed):
    assert undisturbed[0] == (START, student(0, START))
    assert len(undisturbed) == 8
    assert len({tuple(values.items()) for values, _ in undisturbed}) == 8


def test_values_lie_in_their_spans_and_the_rest_is_kept(tmp_path):
    trials = run(
        tmp_path, alpha="1", beta="0.1:0.2", gamma="3:30", temperature="1:4", lora_r=(4, 16)
    )
    for trial in trials:
        assert trial.values.keys() == START.keys()
        assert trial.values["alpha"] == 1.0
        assert 0.1 <= trial.values["beta"] <= 0.2
        assert 3 <= trial.values["gamma"] <= 30
        assert 1 <= trial.values["temperature"] <= 4
        assert trial.values["lora_r"] in (4, 16)
    assert len({trial.values["lora_r"] for trial in trials}) == 2


def test_it_finds_better_settings_than_it_began_with(tmp_path):
    trials = run(tmp_path, trials=40)
    choice = Choice.of(trials, 0.01)
    assert choice.trial.measured.exposure.value < 0.5 * trials[0].measured.exposure.value
    assert choice.trial.measured.accuracy.value >= 0.89


def test_the_seed_decides(tmp_path, undisturbed):
    assert outcome(run(tmp_path / "again")) == undisturbed
    assert outcome(run(tmp_path / "other", seed=1))[1:] != undisturbed[1:]


@pytest.fixture(autouse=True)
def folders(tmp_path):
    for name in ("again", "other"):
        (tmp_path / name).mkdir()


def test_more_trials_go_on_where_it_ended(tmp_path, undisturbed):
    assert outcome(run(tmp_path, trials=3)) == undisturbed[:3]
    seen = []

    def counted(number, *rest):
        seen.append(number)
        return student(number, *rest)

    assert outcome(run(tmp_path, counted)) == undisturbed
    assert len(seen) == 5
    assert outcome(run(tmp_path, counted)) == undisturbed
    assert len(seen) == 5, "nothing is left to do"


@pytest.mark.parametrize("at", [0, 1, 6])
def test_an_error_in_a_trial_costs_nothing_but_that_trial(tmp_path, undisturbed, at):
    calls = []

    def failing(number, values, again):
        calls.append(again)
        if len(calls) == at + 1:
            raise MemoryError
        return student(number, values)

    with pytest.raises(MemoryError):
        run(tmp_path, failing)
    trials = run(tmp_path, failing)
    assert outcome(trials) == undisturbed
    assert [trial.number for trial in trials] == list(range(8))
    assert calls == [False] * (at + 1) + [True] + [False] * (7 - at)


def run_and_die(folder):
    calls = []

    def dies(*given):
        calls.append(given)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return student(*given)

    run(folder, dies)


@pytest.mark.slow
def test_a_search_that_is_killed_ends_as_one_that_is_not(tmp_path, undisturbed):
    killed = get_context("fork").Process(target=run_and_die, args=(tmp_path,))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    # As if it had been killed while it wrote, with the journal locked.
    journal = tmp_path / JOURNAL
    (tmp_path / f"{JOURNAL}.lock").symlink_to(journal)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 5, "wor')
    assert outcome(run(tmp_path)) == undisturbed


def test_every_trial_reports_its_progress(tmp_path):
    told = []
    trials = search(student, START, TuneConfig(trials=3), tmp_path, told.append)
    assert told == trials


def test_a_start_outside_of_the_spans_is_not_tried(tmp_path):
    assert run(tmp_path, gamma="3:30", trials=1)[0].values["gamma"] >= 3


def test_a_file_that_is_no_study(tmp_path):
    (tmp_path / JOURNAL).write_text("nothing\nof the kind\n")
    with pytest.raises(ConfigError, match="is not a study"):
        run(tmp_path)


def test_without_optuna(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"w2sdefense\[tune\]"):
        run(tmp_path)


@pytest.mark.parametrize(("text", "ends"), [("0.5:5", (0.5, 5)), ("2", (2, 2)), ("0", (0, 0))])
def test_spans(text, ends):
    assert search_span(text) == ends


@pytest.mark.parametrize("text", ["5:0.5", "0:1", "-1:1", "a:b", "", ":", "1:inf", "nan", "1:2:3"])
def test_a_broken_span_is_refused(text):
    with pytest.raises(ValueError, match=r"neither|LOW <= HIGH|must be above"):
        search_span(text)
