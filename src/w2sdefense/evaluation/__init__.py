"""Metrics, verdicts, and the record that a run leaves behind."""
