"""Reports on finished runs: a table for the terminal, one for Markdown, a self-contained page."""

from w2sdefense.report.markdown import markdown_table
from w2sdefense.report.page import write_report
from w2sdefense.report.runs import Run, load_runs
from w2sdefense.report.terminal import terminal_table

__all__ = ["Run", "load_runs", "markdown_table", "terminal_table", "write_report"]
