"""The work of the commands, one module each, and what they share (runs, preflight, start)."""
