"""Launching a graph on a Ray cluster: an existing one, or one on this machine.

The driver hands a node to the cluster when all that it is made from is made; Ray chooses the
machine by what the node takes, and tries it again when its worker dies. Results do not travel
through Ray: every worker writes to the ledger, so the folder must be the same for all machines.

Ray is an extra of the package and is imported nowhere else.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from w2sdefense.bench.disk import FullDiskError
from w2sdefense.bench.graph import Node
from w2sdefense.bench.launch import WATCH_SECONDS, Watcher, require_all
from w2sdefense.bench.work import (
    POLL_SECONDS,
    Job,
    Tell,
    failed,
    make_claimed,
    ready,
    silently,
    unmade,
)
from w2sdefense.config import NodeResources, RayConfig
from w2sdefense.errors import ConfigError, MissingDependencyError


def run_on_ray(job: Job, config: RayConfig, threads: int, tell: Tell = silently) -> None:
    """Make all nodes on a cluster.

    Args:
        job: What is to be made.
        config: Which cluster, and what a node takes.
        threads: CPUs that a node takes: its threads.
        tell: Told about nodes that begin and end.

    Raises:
        MissingDependencyError: Ray is not installed.
        ConfigError: The cluster cannot be reached, or none of its machines has what a node takes.
        NodesFailedError: Some nodes could not be made.
        FullDiskError: There is no room for results.
    """
    ray = _connected(config)
    try:
        _Driver(ray, job, config, threads).run(Watcher(job, tell))
    finally:
        ray.shutdown()
    require_all(job)


class _Driver:
    """Hands nodes out.

    Args:
        ray: The module.
        job: What is to be made.
        config: What a node takes.
        threads: CPUs that it takes.
    """

    def __init__(self, ray: Any, job: Job, config: RayConfig, threads: int) -> None:
        self._ray = ray
        self._job = job
        self._running: dict[Any, Node] = {}
        self._given_up: set[Node] = set()
        self._options = {
            kind: _options(getattr(config, kind, NodeResources()), threads, config.retries)
            for kind in {node.kind for node in job.nodes}
        }
        for kind, options in self._options.items():
            _require_machine(ray.nodes(), kind, options)

    def run(self, watcher: Watcher) -> None:
        """Hand out nodes until nothing is left that can be made."""
        while self._hand_out() or self._running:
            finished, _ = self._ray.wait(list(self._running), timeout=WATCH_SECONDS)
            for reference in finished:
                self._take_in(reference)
            watcher.look()

    def _hand_out(self) -> bool:
        todo = unmade(self._job)
        free = [
            node
            for node in ready(todo, failed(self._job, todo) | self._given_up)
            if node not in self._running.values()
        ]
        for node in free:
            task = self._ray.remote(_make).options(**self._options[node.kind])
            # The other nodes are none of the worker's business.
            self._running[task.remote(replace(self._job, nodes=(node,)))] = node
        return bool(free)

    def _take_in(self, reference: Any) -> None:
        node = self._running.pop(reference)
        try:
            full = self._ray.get(reference)
        except self._ray.exceptions.RayError:
            # It died more often than it may; what is made from other nodes goes on.
            self._given_up.add(node)
            return
        if full:
            raise FullDiskError(self._job.ledger.folder)


def _make(job: Job) -> bool:
    """Make the one node of a job, on a worker; says whether the disk is full."""
    (node,) = job.nodes
    while unmade(job) and not failed(job, [node]):
        claim = job.ledger.claim(node)
        if claim is None:
            # Another command works on it, or its owner is not known to be dead yet.
            time.sleep(POLL_SECONDS)
            continue
        try:
            make_claimed(job, node, claim)
        except FullDiskError:
            return True
    return False


def _connected(config: RayConfig) -> Any:
    try:
        import ray
    except ImportError:
        raise MissingDependencyError(
            "The launcher ray needs the package ray.", "Run: pip install 'w2sdefense[ray]'"
        ) from None
    # A cluster that is started here tells nobody about it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=config.address, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The Ray cluster cannot be used: {error}.",
            "Check --ray-address, or leave it out to start one on this machine.",
        ) from None
    return ray


def _options(resources: NodeResources, threads: int, retries: int) -> dict[str, Any]:
    options = {"num_cpus": threads, "num_gpus": resources.gpus, "max_retries": retries}
    if resources.memory_gb is not None:
        options["memory"] = int(resources.memory_gb * 1e9)
    return options


def _require_machine(
    machines: Sequence[dict[str, Any]], kind: str, options: dict[str, Any]
) -> None:
    """Ray would wait for a machine that never comes.

    Raises:
        ConfigError: No machine of the cluster has what a node takes.
    """
    takes = {
        "CPU": options["num_cpus"],
        "GPU": options["num_gpus"],
        "memory": options.get("memory", 0),
    }
    alive = [machine["Resources"] for machine in machines if machine["Alive"]]
    if not any(all(has.get(k, 0) >= v for k, v in takes.items()) for has in alive):
        wanted = ", ".join(f"{value:g} {name}" for name, value in takes.items() if value)
        raise ConfigError(
            f"No machine of the Ray cluster has what a {kind} node takes: {wanted}.",
            f"Use fewer --threads, less --ray-{kind}-gpus or --ray-{kind}-memory-gb, or a larger "
            "machine.",
        )
