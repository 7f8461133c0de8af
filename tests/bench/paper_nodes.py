"""A grid whose nodes are made of paper: a few lines of text each, written slowly, without torch."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2sdefense.bench.ledger import Ledger, Node, digest, in_order
from w2sdefense.bench.runner import Job, run_here

LINES = 12
PAUSE = "W2S_TEST_PAUSE"


def node(kind: str, name: str, **needs: Node) -> Node:
    return Node(kind, {"name": name}, {"name": name}, needs, title=f"{kind} {name}")


def grid() -> list[Node]:
    """Two victims, one teacher for both, and three defenses of each."""
    teacher = node("teach", "t")
    return in_order(
        node("defend", f"{victim}{defense}", victim=node("poison", victim), teacher=teacher)
        for victim in "ab"
        for defense in "xyz"
    )


def make(node: Node, folder: Path, needs: Mapping[str, Path]) -> Mapping[str, Any]:
    """Write lines that follow from each other, and go on where it was cut off.

    A line may have been cut off in the middle, as a checkpoint may. What a node is made from is
    read, so a half-written one would show.
    """
    with (folder.parents[1] / "begun.log").open("a") as log:
        log.write(f"{node.key}\n")
    parts = {role: (path / "lines").read_text() for role, path in sorted(needs.items())}
    path = folder / "lines"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    path.write_text("".join(f"{line}\n" for line in lines))
    with path.open("a") as file:
        while len(lines) < LINES:
            lines.append(digest([parts, node.settings["name"], lines[-1:]]))
            for piece in (lines[-1][:8], lines[-1][8:] + "\n"):
                file.write(piece)
                file.flush()
                time.sleep(float(os.environ.get(PAUSE, "0")))
    return {"last": lines[-1]}


def make_or_fail(node: Node, folder: Path, needs: Mapping[str, Path]) -> Mapping[str, Any]:
    """One victim cannot be made."""
    if node.settings["name"] == "a":
        raise ValueError("no such victim")
    return make(node, folder, needs)


def results(ledger: Ledger) -> dict[str, Mapping[str, Any]]:
    return {done.key: done.result for done in ledger.all_done()}


def work_on(folder: Path, pause: float) -> None:
    """Work through the grid in a process that can be killed at any time."""
    os.environ[PAUSE] = str(pause)
    run_here(Job(grid(), Ledger(folder), make))
