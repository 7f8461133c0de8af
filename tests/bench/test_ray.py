"""The same grid on a Ray cluster of this machine. Left out where Ray is not installed."""

import os
import signal
from pathlib import Path

import paper_nodes
import pytest

from w2sdefense.bench.ledger import Ledger
from w2sdefense.bench.runner import Job, NodesFailedError, run_here, run_on_ray
from w2sdefense.commands.runs import RayConfig
from w2sdefense.errors import ConfigError

pytestmark = pytest.mark.slow

pytest.importorskip("ray")


def job(folder: Path, make=paper_nodes.make, **more) -> Job:
    return Job(paper_nodes.grid(), Ledger(folder), make, **more)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    run_here(job(folder))
    return paper_nodes.results(Ledger(folder))


def die_once(node, folder, needs):
    """Kill the worker the first time that a certain node is made on it."""
    mark = folder / "died"
    if node.settings["name"] == "ay" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return paper_nodes.make(node, folder, needs)


def die_always(node, folder, needs):
    if node.settings["name"] == "a":
        os.kill(os.getpid(), signal.SIGKILL)
    return paper_nodes.make(node, folder, needs)


@pytest.fixture(autouse=True)
def module_is_found(monkeypatch):
    # Workers are processes of their own, and import what they run.
    path = os.pathsep.join(
        [str(Path(paper_nodes.__file__).parent), os.environ.get("PYTHONPATH", "")]
    )
    monkeypatch.setenv("PYTHONPATH", path)


def test_ray_makes_what_one_process_makes_though_a_worker_is_killed(tmp_path, undisturbed):
    told = []
    tell = lambda event, node: told.append((event, node.key))  # noqa: E731
    run_on_ray(job(tmp_path, die_once, tell=tell), RayConfig(), 2)
    assert list(tmp_path.glob("nodes/*/died"))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed
    assert sorted(told) == sorted(("done", key) for key in undisturbed)


def test_a_node_that_fails_or_kills_its_worker_stops_only_what_is_made_from_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("w2sdefense.bench.runner.RETRIES", 1)
    for make, problem in (
        (paper_nodes.make_or_fail, "no such victim"),
        (die_always, "its worker died"),
    ):
        with pytest.raises(NodesFailedError, match=f"1 nodes failed, and 3 nodes .* {problem}"):
            run_on_ray(job(tmp_path, make), RayConfig(), 2)
        assert len(paper_nodes.results(Ledger(tmp_path))) == 5


def test_a_node_that_fits_no_machine_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="what a node takes: 1 CPU, 64 GPU"):
        run_on_ray(job(tmp_path), RayConfig(gpus=64.0), 1)
