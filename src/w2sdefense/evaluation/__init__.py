"""Metrics, verdicts, and the record of a run."""
