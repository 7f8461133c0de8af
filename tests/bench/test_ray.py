"""The same grid on a Ray cluster of this machine. Left out where Ray is not installed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import paper_nodes
import pytest

from w2sdefense.bench.launch import NodesFailedError, run_here
from w2sdefense.bench.ledger import Ledger
from w2sdefense.bench.work import Job
from w2sdefense.config import NodeResources, RayConfig
from w2sdefense.errors import ConfigError

ray = pytest.importorskip("ray")

from w2sdefense.bench.launch_ray import run_on_ray  # noqa: E402


def job(folder: Path, make=paper_nodes.make) -> Job:
    return Job(paper_nodes.grid(), Ledger(folder), make, "session")


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
    run_on_ray(job(tmp_path, die_once), RayConfig(), 1, lambda e, node: told.append((e, node.key)))
    assert list(tmp_path.glob("nodes/*/died"))
    assert paper_nodes.results(Ledger(tmp_path)) == undisturbed
    assert sorted(told) == sorted((e, key) for key in undisturbed for e in ("start", "done"))


def test_a_worker_that_always_dies_stops_only_what_is_made_from_its_node(tmp_path):
    with pytest.raises(NodesFailedError, match="4 of 9 nodes were not made"):
        run_on_ray(job(tmp_path, die_always), RayConfig(retries=1), 1)
    assert len(paper_nodes.results(Ledger(tmp_path))) == 5


def test_a_node_that_fits_no_machine_is_refused(tmp_path):
    greedy = RayConfig(poison=NodeResources(gpus=64.0))
    with pytest.raises(ConfigError, match="what a poison node takes: 1 CPU, 64 GPU"):
        run_on_ray(job(tmp_path), greedy, 1)
