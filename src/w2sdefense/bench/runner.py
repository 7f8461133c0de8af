"""Runs the nodes of a graph, one after another in this process, or on Ray.

A node is idempotent and continues after an interruption, so a killed command is simply run again.
If a node fails, only the nodes that need it are skipped. A lock on every node (`ledger.py`) lets
several commands share a ledger: each runs the nodes that the others have not begun.

Ray (extra `ray`) receives all nodes with their dependencies, schedules them, and retries a node
whose worker died. Workers write results to the ledger, so all machines need the same folder.
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

RETRIES = 3  # how often Ray retries a node whose worker died
_NO_ROOM = "no room"

Maker = Callable[[Node, Path, Mapping[str, Path]], Mapping[str, Any]]
"""Runs a node, given the node, its folder, and the folders of the nodes that it needs, by role.
Returns the result as plain values. A call after an interruption continues the work."""

Event = Literal["start", "done", "failed"]
Tell = Callable[[Event, Node], None]


def silently(event: Event, node: Node) -> None:
    """Ignore the event."""


class NodesFailedError(W2SError):
    """Some nodes failed; all nodes that do not need them are done."""


@dataclass
class Job:
    """Nodes to run, and the errors of those that failed."""

    nodes: Sequence[Node]  # every node after the nodes that it needs
    ledger: Ledger
    make: Maker  # runs a node; Ray must be able to pickle it
    tell: Tell = silently  # called when a node starts, finishes or fails
    problems: dict[str, str] = field(default_factory=dict)  # key of a failed node -> error

    def todo(self) -> list[Node]:
        """The unfinished nodes that neither failed nor need a failed node."""
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
        """Raise a `NodesFailedError` with the first problem, unless all nodes are done."""
        missing = [node for node in self.nodes if self.ledger.done(node.key) is None]
        if not missing:
            return
        first = next(node for node in missing if node.key in self.problems)
        failed = sum(node.key in self.problems for node in missing)
        raise NodesFailedError(
            f"{failed} nodes failed, and {len(missing) - failed} nodes that need them were "
            f"skipped. {first.title or first.key}: {self.problems[first.key]}",
            f"Fix the cause (traceback: {self.ledger.folder_of(first.key) / 'failed.json'}) and "
            "rerun the command.",
        )


def run_here(job: Job) -> None:
    """Run all nodes in this process; see `Job.require_all`."""
    while todo := job.todo():
        waiting = set(todo)
        ready = [node for node in todo if waiting.isdisjoint(node.needs.values())]
        # If other commands have locked all of them, wait for the first.
        if not any(_make(job, node, wait=False) for node in ready):
            _make(job, ready[0], wait=True)
    job.require_all()


def _make(job: Job, node: Node, *, wait: bool) -> bool:
    """Run a node and write its result or error; returns whether it could be locked."""
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
    """Run all nodes on an existing Ray cluster, or on a new local one with room for `jobs` nodes.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The cluster cannot be reached, or none of its machines can run a node.
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
            # A worker gets only its own node, without the rest of the graph.
            task = remote.remote(Job([node], job.ledger, job.make), *below)
            tasks[node.key], running[task] = task, node
        while running:
            (task,), _ = ray.wait(list(running))
            _take_in(ray, job, running.pop(task), task)
    finally:
        ray.shutdown()
    job.require_all()


def _take_in(ray: Any, job: Job, node: Node, task: Any) -> None:
    """Process the result of a node's task."""
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
    """Run the one node of a job, on a worker; returns its error, or None."""
    if any(below):
        return next(problem for problem in below if problem)
    (node,) = job.nodes
    try:
        _make(job, node, wait=True)
    except FullDiskError:
        return _NO_ROOM
    return job.problems.get(node.key)


def _connected(config: RayConfig, cpus: int | None) -> Any:
    ray = import_extra("ray", "ray", "Running several nodes at a time")
    # No usage statistics are sent from a local cluster.
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
    """Refuse a cluster in which no machine can run a node; Ray would wait for one forever."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    wanted = {names[name]: value for name, value in takes.items() if value}
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    if not any(all(has.get(k, 0) >= v for k, v in wanted.items()) for has in alive):
        said = ", ".join(f"{value:g} {name}" for name, value in wanted.items())
        raise ConfigError(
            f"No machine of the Ray cluster has the resources of a node: {said}.",
            "Lower --threads, --ray-gpus or --ray-memory-gb, or add a larger machine.",
        )
