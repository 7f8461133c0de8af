"""What runs differ in, read from their settings."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_runs import make_record, make_samples, settings

from w2sdefense.report.runs import Run, axes_of, distinct_axes, groups_of, sweeps_of

SAMPLES = tuple(make_samples(4, 0.5, 0.1))


def run_of(method: str, **more) -> Run:
    changes = {"stage": "poison"} if method == "poisoned" else {}
    record = make_record(method, SAMPLES, config=settings(method, **more), **changes)
    return Run(method, Path(method), record, SAMPLES, {})


VICTIM = run_of("poisoned", victim="models/smollm").record


def test_a_victim_and_its_defense_are_told_by_the_same_names():
    victim = Run("poisoned", Path("x"), VICTIM, SAMPLES, {})
    both = {"student": "models/smollm", "dataset": "toy", "proxy": "same", "attack": "badnet"}
    assert axes_of(victim) == both | {"method": "poisoned", "seed": 0}
    defended = replace(run_of("w2s", victim="/a/b/runs/poisoned", seed=3), origin=VICTIM)
    own = {"method": "w2s", "teacher": "minilm", "adapter": "lora", "rank": 8, "seed": 3}
    assert axes_of(defended) == both | own | dict.fromkeys(("alpha", "beta", "gamma"), 1.0)


def test_without_its_origin_a_student_is_the_end_of_its_path():
    assert axes_of(run_of("lora", victim="/a/b/runs/poisoned"))["student"] == "runs/poisoned"


@pytest.mark.parametrize(
    ("method", "more", "absent"),
    [
        ("lora", {}, {"alpha", "beta", "gamma", "teacher"}),
        ("onion", {}, {"rank", "adapter", "alpha"}),
        ("w2s", {"adapter": "p-tuning"}, {"rank"}),
    ],
)
def test_what_a_defense_does_not_read_is_not_said(method, more, absent):
    axes = axes_of(run_of(method, **more))
    assert axes["method"] == method
    assert not absent & set(axes)


def test_a_trigger_of_the_users_own_is_named_with_the_others():
    run = run_of("lora")
    config = run.record.config | {"test": {"trigger": "cf", "more_triggers": ["insent"]}}
    changed = replace(run, record=run.record.model_copy(update={"config": config}))
    assert axes_of(changed)["attack"] == "cf + insent"


def test_columns_are_what_tells_runs_apart_or_says_something_of_all():
    axes = [{"a": 1, "b": 1, "c": 1}, {"a": 2, "b": 1, "c": 1}, {"b": 1}]
    assert distinct_axes(axes) == ["a", "b"]


def test_runs_on_other_texts_or_triggers_are_another_group():
    one, same = run_of("lora"), run_of("w2s")
    record = one.record.model_copy(update={"fingerprints": {"test": "other"}})
    other = replace(one, record=record)
    evaluation = one.record.evaluation.model_copy(update={"trigger": "cf"})
    attacked = replace(one, record=one.record.model_copy(update={"evaluation": evaluation}))
    groups = groups_of([one, other, same, attacked])
    assert [group.places for group in groups] == [(0, 2), (1,), (3,)]
    assert [group.title for group in groups] == [f"toy, badnet{n}" for n in ("", " (2)", " (3)")]


def swept(axis: str, *runs: Run) -> list[tuple[str, list[tuple[float, int]]]]:
    return [(s.title, list(s.points)) for s in sweeps_of(runs, range(len(runs)), axis)]


def test_a_sweep_joins_runs_that_differ_in_one_setting_and_their_seeds():
    found = swept(
        "rank",
        run_of("w2s", rank=16),
        run_of("w2s", rank=4),
        run_of("w2s", rank=4, seed=1),
        run_of("poisoned"),
        run_of("lora", rank=4),
    )
    assert found == [("W2SDefense", [(4, 1), (4, 2), (16, 0)])]


def test_runs_that_differ_in_more_are_not_joined():
    one = run_of("w2s", rank=4)
    assert swept("rank", one, run_of("w2s", rank=16, feature_scale="none")) == []
    assert swept("rank", one, run_of("w2s", rank=16, gamma=0.0)) == []
    assert swept("gamma", one, run_of("w2s", rank=4, gamma=0.0)) == [
        ("W2SDefense", [(0.0, 1), (1.0, 0)])
    ]


def test_lines_of_a_sweep_say_what_else_is_swept():
    runs = [run_of("w2s", beta=beta, gamma=gamma) for beta in (0.0, 1.0) for gamma in (0.0, 2.0)]
    assert swept("gamma", *runs) == [
        ("W2SDefense, beta 0.0", [(0.0, 0), (2.0, 1)]),
        ("W2SDefense, beta 1.0", [(0.0, 2), (2.0, 3)]),
    ]


def test_weights_that_a_defense_does_not_read_make_no_sweep():
    assert swept("gamma", run_of("lora", gamma=0.0), run_of("lora", gamma=1.0)) == []


def test_victims_of_other_seeds_do_not_part_the_lines():
    first = replace(run_of("w2s", victim="runs/victim-0", rank=4), origin=VICTIM)
    second = replace(run_of("w2s", victim="runs/victim-1", rank=8, seed=1), origin=VICTIM)
    assert swept("rank", first, second) == [("W2SDefense", [(4, 0), (8, 1)])]


def test_victims_that_were_poisoned_otherwise_are_told_apart():
    first = replace(run_of("w2s", victim="runs/victim-0", rank=4), origin=VICTIM)
    proxy = VICTIM.model_copy(update={"config": VICTIM.config | {"proxy": "imdb"}})
    second = replace(run_of("w2s", victim="runs/victim-1", rank=8), origin=proxy)
    assert swept("rank", first, second) == []
    assert [axes_of(run)["proxy"] for run in (first, second)] == ["same", "imdb"]
    assert "proxy" in distinct_axes([axes_of(first), axes_of(second)])
    lines = [
        replace(run_of(method, victim=f"runs/{name}", rank=rank), origin=victim)
        for method in ("lora", "w2s")
        for name, victim in (("victim-0", VICTIM), ("victim-1", proxy))
        for rank in (4, 8)
        if method == "w2s" or victim is VICTIM
    ]
    titles = ["LoRA", "W2SDefense, proxy same", "W2SDefense, proxy imdb"]
    assert [title for title, _ in swept("rank", *lines)] == titles


def test_how_a_victim_was_watched_does_not_part_the_lines():
    training = {**VICTIM.config["training"], "save_steps": 10}
    watched = VICTIM.model_copy(update={"config": VICTIM.config | {"training": training}})
    first = replace(run_of("w2s", victim="runs/victim-0", rank=4), origin=VICTIM)
    second = replace(run_of("w2s", victim="runs/victim-1", rank=8), origin=watched)
    assert swept("rank", first, second) == [("W2SDefense", [(4, 0), (8, 1)])]
