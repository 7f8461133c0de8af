"""The results as a Markdown table, for the pages of the documentation and for model cards."""

from __future__ import annotations

from collections.abc import Sequence

from w2sdefense.report.rows import headers, results
from w2sdefense.report.runs import Run


def markdown_table(runs: Sequence[Run]) -> str:
    """The numbers of `terminal_table` as a Markdown table that ends in a newline.

    Raises:
        DataError: The runs were tested with different triggers or targets.
    """
    lines = ["| " + " | ".join(headers(runs)) + " |", "| --- | ---: | ---: | ---: | --- |"]
    for row in results(runs):
        rates = map(str, (row.ca, row.asr, row.floor))
        lines.append("| " + " | ".join((escape(row.title), *rates, row.verdict)) + " |")
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Names come from users: a bar must not add a column, nor a tag become HTML."""
    plain = " ".join(text.split())
    return plain.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
