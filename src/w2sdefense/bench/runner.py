"""Making the nodes of a graph: one after another in this process, or with Ray.

A node is idempotent and goes on where it was cut off, so whoever is killed is simply started again.
A node that fails stops only what is made from it. A lock on every node (`ledger.py`) keeps two
commands off it; each takes what the other has not begun.

Ray (extra `ray`) gets all nodes at once, each with the nodes that it needs: when to start what,
where, and again after a worker has died, is its business. Results do not travel through Ray: every
worker writes to the ledger, so the folder must be the same for all machines.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout

from w2sdefense.bench.ledger import FullDiskError, Ledger, Node
from w2sdefense.commands.runs import RayConfig
from w2sdefense.errors import ConfigError, W2SError, import_extra
from w2sdefense.version import code_version

RETRIES = 3  # how often Ray tries a node again whose worker died
_NO_ROOM = "no room"

Maker = Callable[[Node, Path, Mapping[str, Path]], Mapping[str, Any]]
"""Makes a node: given the node, its folder, and the folders of what it is made from, by role; gives
back the result as plain values. Called again after it was cut off, it goes on."""

Event = Literal["start", "done", "failed"]
Tell = Callable[[Event, Node], None]


def silently(event: Event, node: Node) -> None:
    """Tell nobody."""


class NodesFailedError(W2SError):
    """Some nodes could not be made; all others are."""


@dataclass
class Job:
    """Nodes to make, none before what it needs."""

    nodes: Sequence[Node]
    ledger: Ledger
    make: Maker  # makes a node; for Ray a function or object of a module
    tell: Tell = silently  # told what begins and ends
    problems: dict[str, str] = field(default_factory=dict)  # why nodes could not be made, by key

    def todo(self) -> list[Node]:
        """The nodes that are not made yet and can be, as far as is known."""
        hopeless = set(self.problems)
        found = []
        for node in self.nodes:
            if self.ledger.done(node.key) is not None or node.key in hopeless:
                continue
            if any(need.key in hopeless for need in node.needs.values()):
                hopeless.add(node.key)
            else:
                found.append(node)
        return found

    def require_all(self) -> None:
        """Insist that all nodes are made; the error names the others, with the first reason."""
        missing = [node for node in self.nodes if self.ledger.done(node.key) is None]
        if not missing:
            return
        first = next(node for node in missing if node.key in self.problems)
        failed = sum(node.key in self.problems for node in missing)
        raise NodesFailedError(
            f"{failed} nodes failed, {len(missing) - failed} that are made from them were left "
            f"out. {first.title or first.key}: {self.problems[first.key]}",
            f"Fix the cause (traceback: {self.ledger.folder_of(first.key) / 'failed.json'}) and "
            "rerun the command.",
        )


def run_here(job: Job) -> None:
    """Make all nodes in this process; see `Job.require_all`."""
    while todo := job.todo():
        waiting = set(todo)
        ready = [node for node in todo if waiting.isdisjoint(node.needs.values())]
        # If another command has all of them, wait for the first.
        if not any(_make(job, node, wait=False) for node in ready):
            _make(job, ready[0], wait=True)
    job.require_all()


def _make(job: Job, node: Node, *, wait: bool) -> bool:
    """Make a node and write its result or why there is none; says whether it could be locked."""
    with job.ledger.explain_full_disk():
        lock = job.ledger.lock(node.key)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            return False
        try:
            if job.ledger.done(node.key) is None:
                _make_locked(job, node)
        finally:
            lock.release()
    return True


def _make_locked(job: Job, node: Node) -> None:
    ledger = job.ledger
    needs = {role: ledger.folder_of(need.key) for role, need in node.needs.items()}
    job.tell("start", node)
    start = time.perf_counter()
    try:
        with ledger.explain_full_disk():
            ledger.describe(node)
            result = job.make(node, ledger.folder_of(node.key), needs)
            ledger.finish(node, result, time.perf_counter() - start, code_version())
    except FullDiskError:
        raise
    except Exception as error:
        job.problems[node.key] = str(error) or type(error).__name__
        ledger.fail(node, job.problems[node.key], traceback.format_exc())
        job.tell("failed", node)
        return
    job.tell("done", node)


def run_on_ray(job: Job, config: RayConfig, jobs: int | None = None) -> None:
    """Make all nodes on a Ray cluster: one that is there, or one that is started for `jobs` nodes.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The cluster cannot be reached, or none of its machines has what a node takes.
    """
    threads = max(int(node.settings.get("threads", 1)) for node in job.nodes)
    ray = _connected(config, None if jobs is None else jobs * threads)
    try:
        takes: dict[str, Any] = {"num_cpus": threads, "num_gpus": config.gpus}
        if config.memory_gb is not None:
            takes["memory"] = int(config.memory_gb * 1e9)
        _require_machine(ray.nodes(), takes)
        remote = ray.remote(_make_remote).options(**takes, max_retries=RETRIES)
        tasks: dict[str, Any] = {}
        running: dict[Any, Node] = {}
        for node in job.todo():
            below = [tasks[need.key] for need in node.needs.values() if need.key in tasks]
            # The other nodes are none of the worker's business.
            task = remote.remote(Job([node], job.ledger, job.make), *below)
            tasks[node.key], running[task] = task, node
        while running:
            (task,), _ = ray.wait(list(running))
            _take_in(ray, job, running.pop(task), task)
    finally:
        ray.shutdown()
    job.require_all()


def _take_in(ray: Any, job: Job, node: Node, task: Any) -> None:
    """Note how the task of a node ended."""
    try:
        problem = ray.get(task)
    except ray.exceptions.WorkerCrashedError:
        problem = "its worker died (killed, or out of memory?)"
    except ray.exceptions.RayError as error:
        problem = str(error)
    if problem == _NO_ROOM:
        raise FullDiskError(job.ledger.folder)
    if problem is None:
        job.tell("done", node)
    elif node in job.todo():
        job.problems[node.key] = problem
        job.tell("failed", node)


def _make_remote(job: Job, *below: str | None) -> str | None:
    """Make the one node of a job, on a worker; returns why it could not be made."""
    if any(below):
        return next(problem for problem in below if problem)
    (node,) = job.nodes
    try:
        _make(job, node, wait=True)
    except FullDiskError:
        return _NO_ROOM
    return job.problems.get(node.key)


def _connected(config: RayConfig, cpus: int | None) -> Any:
    ray = import_extra("ray", "ray", "Making several nodes at a time")
    # A cluster that is started here tells nobody about it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = {} if config.address or os.environ.get("RAY_ADDRESS") else {"num_cpus": cpus}
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The Ray cluster cannot be used: {error}.",
            "Check --ray-address, or leave it out to start one on this machine.",
        ) from None
    return ray


def _require_machine(machines: Sequence[dict[str, Any]], takes: Mapping[str, float]) -> None:
    """Refuse a cluster without a machine for a node: Ray would wait for one that never comes."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    wanted = {names[name]: value for name, value in takes.items() if value}
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    if not any(all(has.get(k, 0) >= v for k, v in wanted.items()) for has in alive):
        said = ", ".join(f"{value:g} {name}" for name, value in wanted.items())
        raise ConfigError(
            f"No machine of the Ray cluster has what a node takes: {said}.",
            "Use fewer --threads, less --ray-gpus or --ray-memory-gb, or a larger machine.",
        )
