"""The errors that users can cause, each with instructions to fix it.

Every such error derives from `W2SError` and has a `fix`: one sentence, if possible with a command.
The command line prints problem and fix without a traceback. Programming errors (a wrong type, a
broken invariant) are ordinary Python exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

FETCH_AGAIN = "Fetch it again, or name another one."

LONGEST_REASON = 300


class W2SError(Exception):
    """An error that the user can fix.

    Args:
        problem: What is wrong, naming the file, column, label or value at fault.
        fix: What to do about it, as an instruction.
    """

    def __init__(self, problem: str, fix: str) -> None:
        self.problem, self.fix = printable(problem), printable(fix)
        super().__init__(f"{self.problem} {self.fix}")


def printable(text: str) -> str:
    """Escape control characters, because text from files must not control a terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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


def import_extra(module: str, extra: str, need: str) -> Any:
    """Import a package of one of our extras; the error says how to install it."""
    try:
        return import_module(module)
    except ImportError:
        raise MissingDependencyError(
            f"{need} needs the package {module}, which is not installed.",
            f"Run: pip install 'w2sdefense[{extra}]'",
        ) from None


@contextmanager
def reading(kind: type[W2SError], problem: str, fix: str = FETCH_AGAIN) -> Iterator[None]:
    """Convert any exception that a library raises for an untrusted file to a `W2SError`.

    csv, json, Arrow, transformers, PEFT, safetensors and tokenizers raise arbitrary exceptions for
    broken files, so all are caught. The block should therefore contain only the code that reads the
    file. A `W2SError`, a GPU out-of-memory error and exits such as `KeyboardInterrupt` pass
    unchanged.

    Args:
        kind: The error to raise; its text is `problem` and the first line of the library's message.
        problem: What failed, naming the file or the checkpoint, without a full stop.
        fix: What to do about it.
    """
    try:
        yield
    except W2SError:
        raise
    except BaseException as error:
        name = type(error).__name__
        # A panic in a Rust library derives from BaseException.
        if name == "OutOfMemoryError" or not (
            isinstance(error, Exception) or name == "PanicException"
        ):
            raise
        raise kind(f"{problem}: {reason_of(error)}.", fix) from error


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, with its type if the line alone is not informative."""
    if isinstance(error, UnicodeDecodeError):
        return f"the byte 0x{error.object[error.start]:02x} is not UTF-8"
    lines = str(error).strip().splitlines()
    if type(error).__name__ == "ValidationError":  # pydantic's first line only counts the others
        lines = [" ".join(map(str.strip, lines))]
    text = "".join(c for c in lines[0] if c.isprintable()) if lines else ""
    if not text or isinstance(error, LookupError | AttributeError | TypeError):
        text = f"{type(error).__name__} {text}".strip()
    return text[:LONGEST_REASON].rstrip(".: ")
