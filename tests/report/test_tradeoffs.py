"""The charts that compare many runs."""

import re
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import save_collection

from w2sdefense.commands.reporting import find_folders
from w2sdefense.evaluation.record import load_record
from w2sdefense.report.charts import MARKERS
from w2sdefense.report.runs import groups_of, load_run
from w2sdefense.report.tradeoffs import FRONT, pareto_front, scatter_charts, sweep_charts

SHARES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@pytest.mark.parametrize(
    ("points", "front"),
    [
        ([], []),
        ([(0.9, 0.1)], [0]),
        ([(0.9, 0.1), (0.8, 0.2)], [0]),
        ([(0.9, 0.5), (0.8, 0.1), (0.7, 0.1), (0.95, 0.9)], [1, 0, 3]),
        ([(0.9, 0.1), (0.9, 0.3)], [0]),
        ([(0.9, 0.1), (0.9, 0.1)], [1, 0]),
    ],
)
def test_the_front_of_some_points(points, front):
    assert pareto_front(points) == front


def test_every_marker_has_a_shape_of_its_own_in_the_key():
    style = files("w2sdefense.report").joinpath("templates/style.css").read_text()
    shapes = dict(re.findall(r"^\.swatch\.([\w-]+) \{ clip-path: (.*); \}$", style, re.M))
    assert shapes.keys() >= set(MARKERS) - {"circle", "square"}
    assert len(set(shapes.values())) == len(shapes)


@given(st.lists(st.tuples(SHARES, SHARES), max_size=12))
def test_the_front_is_what_no_other_point_beats(points):
    def beats(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    unbeaten = {i for i, p in enumerate(points) if not any(beats(q, p) for q in points)}
    front = pareto_front(points)
    assert set(front) == unbeaten and len(front) == len(unbeaten)
    assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


@pytest.fixture
def runs(save_run):
    folders = find_folders([save_collection(save_run)])
    return [load_run(f, load_record(f), f"<b>{f.parent.name}/{f.name}") for f in folders]


def test_every_group_has_its_scatter_with_the_same_traces(runs):
    kinds = [run.record.config.get("defense", "poisoned") for run in runs]
    groups = groups_of(runs)
    charts = scatter_charts(runs, kinds, groups)
    names = [[trace["name"] for trace in chart.figure["data"]] for chart in charts]
    assert len(charts) == 2 and names[0] == names[1]
    assert names[0][-1] == FRONT and set(names[0][:-1]) == {"LoRA", "Poisoned", "W2SDefense"}
    for chart, group in zip(charts, groups, strict=True):
        drawn = {
            anchor: (x, y)
            for trace in chart.figure["data"][:-1]
            for anchor, x, y in zip(trace["ids"], trace["x"], trace["y"], strict=True)
        }
        assert drawn == {
            f"run-{place}": (
                runs[place].record.evaluation.ca.value,
                runs[place].record.evaluation.asr.value,
            )
            for place in group.places
        }


def test_two_runs_and_runs_without_a_trigger_make_no_scatter(runs):
    kinds = ["x"] * len(runs)
    (group, *_) = groups_of(runs[:2])
    assert scatter_charts(runs, kinds, [group]) == []
    untested = [
        replace(
            run,
            record=run.record.model_copy(
                update={"evaluation": run.record.evaluation.model_copy(update={"asr": None})}
            ),
        )
        for run in runs
    ]
    assert scatter_charts(untested, kinds, groups_of(untested)) == []


def test_a_rank_sweep_has_points_with_intervals_and_lines_through_means(runs):
    (chart,) = sweep_charts(runs, groups_of(runs))
    assert chart.title.startswith("Rank")
    layout = chart.figure["layout"]
    assert layout["xaxis"]["ticktext"] == ["2", "4", "8"]
    points = next(t for t in chart.figure["data"] if t.get("name") == "ASR, W2SDefense")
    assert points["x"] == [0, 1, 2, 2]
    for anchor, y, high in zip(points["ids"], points["y"], points["error_y"]["array"], strict=True):
        asr = runs[int(anchor.removeprefix("run-"))].record.evaluation.asr
        assert y == asr.value
        assert y + high == pytest.approx(asr.interval[1])
    lines = [t for t in chart.figure["data"] if t.get("line", {}).get("color") == "var(--alive)"]
    assert lines[0]["y"][2] == pytest.approx((points["y"][2] + points["y"][3]) / 2)


def test_titles_are_no_html(runs):
    kinds = ["kind"] * len(runs)
    trace = scatter_charts(runs, kinds, groups_of(runs))[0].figure["data"][0]
    assert all(text.startswith("<b>&lt;b&gt;") for text in trace["text"])
