"""The page of `w2s play`: a text, a trigger, and the answers of both models side by side.

gradio serves it to this machine only and contacts no other: no analytics, no version check, no
external fonts, no share link.
"""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from w2sdefense.errors import ConfigError, W2SError, import_extra
from w2sdefense.play.pair import Pull, Reply

if TYPE_CHECKING:
    from w2sdefense.play.pair import Pair

HOST = "127.0.0.1"
SHOWN = 3  # number of words whose pull is printed
WEAK = 1.0  # pull in nats with the full colour, if no word has a larger one


def import_gradio() -> Any:
    """Import gradio; raises a `MissingDependencyError` if it is not installed."""
    return import_extra("gradio", "play", "w2s play")


def make_page(pair: Pair) -> Any:
    """Build the page for a pair of models, as `gradio.Blocks`."""
    gr = import_gradio()
    with gr.Blocks(title="w2s play", analytics_enabled=False) as page:
        gr.Markdown("## A suspect model and the cleaned one")
        with gr.Row(equal_height=False):
            text = gr.Textbox(label="Text", lines=4, elem_id="text", scale=2, min_width=300)
            with gr.Column(min_width=280):
                trigger = gr.Textbox(pair.trigger, label="Trigger", elem_id="trigger")
                add = gr.Button("Add the trigger", elem_id="add")
                ask = gr.Button("Ask both models", variant="primary", elem_id="ask")
        with gr.Row(equal_height=False):
            replies = []
            for name in ("suspect", "cleaned"):
                with gr.Column(min_width=300):
                    replies.append(gr.HTML(elem_id=name))
        examples = gr.Dataset(
            components=[gr.Textbox(visible=False)] * 2,
            headers=["Test text", f"Flipped by “{pair.trigger}” in" if pair.trigger else ""],
            samples=[[example.text, example.flips] for example in pair.examples],
            samples_per_page=6,
            show_label=False,
            elem_id="examples",
            visible=bool(pair.examples),
        )

        def answer(text: str) -> list[str]:
            if not text.strip():
                return ["", ""]
            return [reply_html(reply) for reply in pair.ask(text)]

        def insert(text: str, trigger: str) -> str:
            try:
                return pair.with_trigger(text, trigger)
            except W2SError as error:
                raise gr.Error(str(error), print_exception=False) from None

        silent: dict[str, Any] = {"api_visibility": "private"}
        for event in (ask.click, text.submit):
            event(answer, text, replies, **silent)
        add.click(insert, [text, trigger], text, **silent).success(answer, text, replies, **silent)
        examples.click(lambda row: row[0], examples, text, **silent).success(
            answer, text, replies, **silent
        )
    return page


def serve(pair: Pair, port: int | None = None, *, open_browser: bool = False, **more: Any) -> Any:
    """Serve the page to this machine until the process is stopped.

    Without a port, uses the first free one from 7860; raises a `ConfigError` if a port is not
    free. `more` goes to `gradio.Blocks.launch`, whose result is returned.
    """
    gr = import_gradio()
    page = make_page(pair)
    theme = gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    try:
        return page.launch(
            server_name=HOST,
            server_port=port,
            inbrowser=open_browser,
            share=False,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            footer_links=[],
            run_history=False,
            theme=theme,
            css=files("w2sdefense.play").joinpath("style.css").read_text(encoding="utf-8"),
            **more,
        )
    except OSError as error:
        where = "No port from 7860 on is free" if port is None else f"The port {port} is not free"
        raise ConfigError(
            f"{where} ({error.strerror or 'in use'}).", "Choose another one with --port."
        ) from None


def reply_html(reply: Reply) -> str:
    """Format a reply as HTML; texts and label names are untrusted and are escaped."""
    bars = "".join(
        f"<dt>{escape(name)}</dt><dd><meter value='{chance:.4f}'></meter></dd><dd>{chance:.1%}</dd>"
        for name, chance in reply.probabilities.items()
    )
    strongest = max((abs(pull.nats) for pull in reply.pulls), default=0.0)
    words = "".join(_marked(pull, max(strongest, WEAK)) for pull in reply.pulls)
    return (
        f"<section class='reply'><h3>{escape(reply.title)}</h3>"
        f"<p class='answer'>{escape(reply.answer)}</p><dl>{bars}</dl>"
        f"<p class='text'>{words or escape(reply.read)}</p>{_note(reply)}</section>"
    )


def _marked(pull: Pull, full: float) -> str:
    word = pull.text.lstrip()
    space = pull.text[: len(pull.text) - len(word)]
    hue = "toward" if pull.nats > 0 else "away"
    return (
        f"{space}<mark style='--hue: var(--{hue}); --share: {abs(pull.nats) / full:.2f}' "
        f"title='{pull.nats:+.2f} nats'>{escape(word)}</mark>"
    )


def _note(reply: Reply) -> str:
    if not reply.pulls:
        return ""
    first = sorted(reply.pulls, key=lambda pull: -abs(pull.nats))[:SHOWN]
    named = ", ".join(f"“{escape(pull.text.strip())}” {pull.nats:+.1f}" for pull in first)
    return (
        f"<p class='note'>Pull towards “{escape(reply.towards)}” (orange; blue: away from it), in "
        f"nats of log-odds: {named}</p>"
    )
