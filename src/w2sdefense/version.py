"""The version of the code behind a result: the release, and a hash of the code that affects it."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_SHOWS = frozenset(("bench", "cli", "paper", "report", "version.py", "__main__.py"))
"""Files and packages that only display or request results."""


@cache
def code_version() -> str:
    """The release, and a hash of the code that affects results: "0.1.0+4c1f09ab".

    Comments, docstrings and formatting do not count. Another version may give other results.
    """
    root = Path(__file__).parent
    text = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if place.parts[0] not in _SHOWS:
            text.update(f"{place}\n{code_of(file.read_text(encoding='utf-8'))}\n".encode())
    return f"{version('w2sdefense')}+{text.hexdigest()[:8]}"


def code_of(source: str) -> str:
    """Source without comments, docstrings and formatting; the same in all versions of Python."""
    return repr(_plain(ast.parse(source)))


def _plain(node: Any) -> Any:
    if isinstance(node, ast.AST):
        # Skip empty fields, because later versions of Python have more of them.
        found = ((name, _plain(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, *((n, value) for n, value in found if value not in (None, []))]
    if isinstance(node, list):
        # Skip string statements: docstrings, and comments on constants.
        return [_plain(each) for each in node if not _is_text(each)]
    return node


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
