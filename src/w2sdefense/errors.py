"""What a user can get wrong, each with what to do about it.

Every error that a user can cause derives from `W2SError` and carries a `fix`: one sentence, if
possible a command, that mends it. The command line prints both without a traceback. Programming
errors (a wrong type, a broken invariant) stay ordinary Python exceptions and are not covered here.
"""

from __future__ import annotations


class W2SError(Exception):
    """An error that the user can mend.

    Args:
        problem: What is wrong, naming the file, column, label or value at fault.
        fix: What to do about it, as an instruction.
    """

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem} {fix}")
        self.problem = problem
        self.fix = fix


class ConfigError(W2SError):
    """A setting that is unknown, out of range, or that contradicts another one."""


class DataError(W2SError):
    """A dataset that is missing, malformed, or that has nothing left to work with."""


class ModelError(W2SError):
    """A checkpoint that is missing, incomplete, or not of the kind that was asked for."""


class UnsafeCheckpointError(ModelError):
    """A checkpoint that could run code when it is opened (a pickle, or remote code)."""


class MissingDependencyError(W2SError):
    """An optional package that a feature needs and that is not installed."""
