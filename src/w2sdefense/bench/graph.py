"""The graph of an experiment: what has to be made, from what, and under which key.

A node is one thing that is made once: a poisoned victim, a teacher, a defended and measured model.
Its key is the hash of everything that decides its result: its own settings and the keys of what it
is made from. Two rows of a table that need the same victim therefore share one node.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 2
"""Raised when what a node does with the same settings changes: older results are then not used."""

KEY_LENGTH = 16


@dataclass(frozen=True)
class Node:
    """One thing to make.

    Attributes:
        kind: Which function makes it ("poison", "teach", "defend").
        settings: What that function is given, as plain values.
        identity: What of the settings decides the result, as plain values; more of it than needed
            repeats work, less of it mixes results up.
        needs: What it is made from, by role ("victim", "teacher").
        title: What it is, for people.
        work: How much there is to do, in tokens through the student; for estimates.
        speed: Nodes of the same name here do about as much of it in a second.
    """

    kind: str
    settings: Mapping[str, Any]
    identity: Mapping[str, Any]
    needs: Mapping[str, Node] = field(default_factory=dict)
    title: str = ""
    work: float = 0.0
    speed: str = ""
    key: str = field(init=False)

    def __post_init__(self) -> None:
        made_from = {role: node.key for role, node in self.needs.items()}
        object.__setattr__(self, "key", f"{self.kind}-{digest([FORMAT, self.identity, made_from])}")

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and other.key == self.key


def digest(value: Any) -> str:
    """A short hash of plain values, the same on every machine."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def in_order(wanted: Iterable[Node]) -> list[Node]:
    """The nodes and all that they are made from, each once, nothing before what it needs."""
    found: dict[str, Node] = {}

    def add(node: Node) -> None:
        if node.key not in found:
            for need in node.needs.values():
                add(need)
            found[node.key] = node

    for node in wanted:
        add(node)
    return list(found.values())
