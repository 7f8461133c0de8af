"""The one place where an error of a library that reads data becomes an error of ours.

`csv`, `json`, zlib, Arrow and `datasets` raise errors without a common base, and which ones is no
promise of theirs; a data file is not trusted to be what its name says. So every error that leaves a
library while data is read is a `DataError` that names the data. Errors of ours pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from w2sdefense.errors import DataError, W2SError


@contextmanager
def reading(problem: str, fix: str) -> Iterator[None]:
    """Turn whatever the block raises into a `DataError`.

    Args:
        problem: What failed, naming file and line, for example `Cannot read reviews.csv`.
        fix: What to do about it.

    Raises:
        DataError: `problem` with the first line of the error as its reason.
    """
    try:
        yield
    except W2SError:
        raise
    except Exception as error:
        raise DataError(f"{problem}: {reason_of(error)}.", fix) from error


def reason_of(error: Exception) -> str:
    """The first line of an error's message, at most 200 characters."""
    if isinstance(error, UnicodeDecodeError):
        return f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
    lines = str(error).strip().splitlines()
    return lines[0][:200].rstrip(". ") if lines else type(error).__name__
