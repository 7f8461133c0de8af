"""`w2s play`: the models of a finished defense, tried by hand in a browser."""

from __future__ import annotations

from pathlib import Path

from w2sdefense.cli.display import Display
from w2sdefense.play.page import import_gradio, serve
from w2sdefense.play.pair import open_pair


def run_play(folder: Path, port: int | None, *, open_browser: bool) -> None:
    """Serve the page of a run to this machine until Ctrl-C.

    Args:
        folder: The folder of a finished `w2s defend`.
        port: The port; None takes the first free one from 7860.
        open_browser: Whether to open the page.

    Raises:
        MissingDependencyError: gradio is not installed.
        DataError: There is no such run.
        ConfigError: The port is taken.
    """
    import_gradio()
    with Display() as display:
        display.say("Opening both models ...")
        pair = open_pair(folder)
    serve(pair, port, open_browser=open_browser)
