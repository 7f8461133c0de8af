"""How an error that the user can mend reaches the user: two lines, no traceback.

Any other exception is a mistake of ours and keeps its traceback.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rich.console import Console
from rich.text import Text

from w2sdefense.errors import W2SError

EXIT_CODE = 2
"""As for a flag that does not parse."""

P = ParamSpec("P")
R = TypeVar("R")


def run_or_explain(run: Callable[P, R]) -> Callable[P, R]:
    """Decorate a command so that a `W2SError` is printed with its fix and exits with code 2."""

    @functools.wraps(run)
    def explained(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run(*args, **kwargs)
        except W2SError as error:
            _print(error)
            raise SystemExit(EXIT_CODE) from None

    return explained


def _print(error: W2SError) -> None:
    # Soft wrap: a path or a command that is broken over two lines cannot be copied.
    console = Console(markup=False, stderr=True, soft_wrap=True)
    console.print(Text.assemble(("Error: ", "bold red"), error.problem))
    console.print(Text.assemble(("Fix: ", "bold green"), error.fix))
