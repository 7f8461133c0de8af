"""Working through a graph: one worker, of however many there are.

All workers do the same and none leads: each looks for a node that is not made, whose parts are
made, and that nobody works on, claims it in the ledger and makes it. A worker that dies leaves a
claim that the others take over; a node that fails stops only what is made from it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w2sdefense.bench.disk import FullDiskError, explain_full_disk
from w2sdefense.bench.graph import Node
from w2sdefense.bench.ledger import Claim, Ledger, LostClaimError

POLL_SECONDS = 0.5

Maker = Callable[[Node, Path, Mapping[str, Path]], Mapping[str, Any]]
"""Makes a node: given the node, its folder, and the folders of what it is made from, by role; gives
back the result as plain values. Called again after it was cut off, it goes on."""

Event = Literal["start", "done", "failed"]
Tell = Callable[[Event, Node], None]


def silently(event: Event, node: Node) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Job:
    """What a worker works on.

    Attributes:
        nodes: All nodes, none before what it needs.
        ledger: Where results are kept.
        make: Makes a node; for several processes a function of a module.
        session: Name of this run of the command: a node that failed in it is not tried again.
    """

    nodes: Sequence[Node]
    ledger: Ledger
    make: Maker
    session: str


def work(job: Job, tell: Tell = silently) -> None:
    """Make what can be made, until all is made or what is left cannot be.

    Raises:
        FullDiskError: There is no room for results.
    """
    while todo := unmade(job):
        hopeless = failed(job, todo)
        if len(hopeless) == len(todo):
            return
        if not any(_try(job, node, tell) for node in ready(todo, hopeless)):
            # Others work on what is left, or on what it is made from.
            time.sleep(POLL_SECONDS)


def unmade(job: Job) -> list[Node]:
    """The nodes that are not made."""
    return [node for node in job.nodes if job.ledger.done(node.key) is None]


def failed(job: Job, todo: Sequence[Node]) -> set[Node]:
    """Of the nodes that are not made, those that failed in this session or are made from such."""
    hopeless: set[Node] = set()
    for node in todo:
        lost = not hopeless.isdisjoint(node.needs.values())
        if lost or job.ledger.failure(node.key, job.session) is not None:
            hopeless.add(node)
    return hopeless


def ready(todo: Sequence[Node], hopeless: set[Node]) -> list[Node]:
    """Of the nodes that are not made, those whose parts are, but for hopeless ones."""
    waiting = set(todo)
    return [n for n in todo if n not in hopeless and waiting.isdisjoint(n.needs.values())]


def _try(job: Job, node: Node, tell: Tell) -> bool:
    """Make a node if it is free; says whether anything was done."""
    claim = job.ledger.claim(node)
    if claim is None:
        return False
    if job.ledger.failure(node.key, job.session) is not None:
        # It failed between the look at it and the claim.
        claim.release()
        return False
    make_claimed(job, node, claim, tell)
    return True


def make_claimed(job: Job, node: Node, claim: Claim, tell: Tell = silently) -> None:
    """Make a node that this process holds, and write its result or why there is none.

    Raises:
        FullDiskError: There is no room for the result.
    """
    ledger, folder = job.ledger, job.ledger.folder_of(node.key)
    tell("start", node)
    start = time.perf_counter()
    try:
        with explain_full_disk(ledger.folder):
            ledger.describe(node)
            with claim:
                result = job.make(
                    node, folder, {role: ledger.folder_of(n.key) for role, n in node.needs.items()}
                )
            ledger.finish(node, claim, result, time.perf_counter() - start)
    except LostClaimError:
        # Another worker has it now.
        return
    except (FullDiskError, KeyboardInterrupt, SystemExit):
        # This process may live on, and its claims with it.
        claim.release()
        raise
    except Exception as error:
        if not claim.is_held():
            # What it stumbled over is the work of the one that has it now.
            return
        ledger.fail(node, claim, job.session, _in_words(error), traceback.format_exc())
        tell("failed", node)
        return
    tell("done", node)


def _in_words(error: Exception) -> str:
    return str(error) or type(error).__name__
