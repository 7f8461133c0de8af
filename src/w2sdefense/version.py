"""The version of the code that makes results: the release, and a hash of what decides a number."""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

_SHOWS = frozenset(("bench", "cli", "paper", "report", "version.py", "__main__.py"))
"""What only shows results, or asks for them."""


@cache
def code_version() -> str:
    """Release, and a hash of the code that decides a number: "0.1.0+4c1f09ab".

    Comments, docstrings and formatting do not count. A result that another version made may differ
    from what this one would give.
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
        # What is empty is left out, since later versions of Python have more fields.
        found = ((name, _plain(value)) for name, value in ast.iter_fields(node))
        return [type(node).__name__, *((n, value) for n, value in found if value not in (None, []))]
    if isinstance(node, list):
        # A string by itself does nothing: a docstring, or what is said of a constant.
        return [_plain(each) for each in node if not _is_text(each)]
    return node


def _is_text(node: Any) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
