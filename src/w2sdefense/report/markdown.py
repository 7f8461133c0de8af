"""Untrusted text in Markdown."""

from __future__ import annotations


def escape(text: str) -> str:
    """Names come from users: a bar must not add a column, nor a tag become HTML."""
    plain = " ".join(text.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
