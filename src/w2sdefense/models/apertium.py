"""Translation without a network: the rule-based engine apertium, as a process.

It is not a Python package but a program (Debian: `apt install apertium apertium-eng-spa`). Texts go
through one process, one per line. A line that does not end like a sentence would flow into the
next, so such lines are given a full stop on the way, which is taken off again. So are the capitals
that the engine gives to what it takes for names, if the text itself has none: they are no more than
its own habit, and a model that was trained on lower case would have to read them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from w2sdefense.errors import MissingDependencyError, ModelError

STOP = " ."
_ENDS = (".", "!", "?")


def require_apertium(modes: Sequence[str]) -> None:
    """Check that the program and its translation modes are installed.

    Args:
        modes: Such as `eng-spa`.

    Raises:
        MissingDependencyError: The program or a mode is missing.
    """
    program = shutil.which("apertium")
    if program is None:
        raise MissingDependencyError(
            "Back-translation by apertium needs the program apertium, which is not installed.",
            "Install it (Debian: apt install apertium apertium-eng-spa), or use a pair of models: "
            "--back-translation-engine models.",
        )
    listed = subprocess.run([program, "-l"], capture_output=True, text=True, check=False)
    for mode in modes:
        if mode not in listed.stdout.split():
            raise MissingDependencyError(
                f"apertium has no translation mode {mode}.",
                "Install its language pair (Debian: apt install apertium-eng-spa).",
            )


def translate(texts: Sequence[str], modes: Sequence[str]) -> list[str]:
    """Translate texts through one mode after another (`eng-spa`, then `spa-eng`).

    Args:
        texts: Raw texts; line breaks in them become spaces. One of white space stays as it is.
        modes: Translation modes, in order.

    Returns:
        The translations, in order. Words that the engine does not know stay as they are.

    Raises:
        ModelError: apertium failed, or gave another number of lines.
    """
    lines = [" ".join(text.split()) for text in texts]
    places = [place for place, line in enumerate(lines) if line]
    closed = [lines[place] for place in places]
    bare = [not line.endswith(_ENDS) for line in closed]
    closed = [
        line + STOP if open_end else line for line, open_end in zip(closed, bare, strict=True)
    ]
    for mode in modes:
        closed = _run(closed, mode) if closed else []
    result = list(texts)
    for place, line, open_end in zip(places, closed, bare, strict=True):
        line = " ".join(line.split())
        line = line.removesuffix(".").rstrip() if open_end else line
        result[place] = line.lower() if texts[place].islower() else line
    return result


def _run(lines: Sequence[str], mode: str) -> list[str]:
    # -u: words that are not known are not marked with a star.
    done = subprocess.run(
        ["apertium", "-u", mode],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    found = done.stdout.removesuffix("\n").split("\n")
    if done.returncode or len(found) != len(lines):
        raise ModelError(
            f"apertium {mode} gave {len(found)} lines for {len(lines)} "
            f"(exit code {done.returncode}): {done.stderr.strip()[:200]}",
            "Run it by hand on the texts, or use a pair of models.",
        )
    return found
