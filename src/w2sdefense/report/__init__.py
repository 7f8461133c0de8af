"""Reports on finished runs: a table for the terminal, a self-contained page, a model card."""

from w2sdefense.report.page import write_report as write_report
from w2sdefense.report.runs import Run as Run, load_runs as load_runs
from w2sdefense.report.tables import terminal_table as terminal_table
