"""Reports on finished runs: a table for the terminal, a self-contained page, a model card."""

from w2sdefense.report.page import write_report
from w2sdefense.report.runs import Run, load_runs
from w2sdefense.report.tables import terminal_table

__all__ = ["Run", "load_runs", "terminal_table", "write_report"]
