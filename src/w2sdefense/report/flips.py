"""The test texts whose answer the trigger flips, with the trigger found again in the text.

A flip is a sample that gets one answer without the trigger and another with it. Some flips happen
without any backdoor, when a longer text simply reads differently; the interval of the ASR says how
much that matters. Of answers in words those are flips that say the target only with the trigger:
the others change with any word of the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from w2sdefense.data.types import REFUSED
from w2sdefense.evaluation.record import GeneratedSample, Sample
from w2sdefense.report.runs import Run

MAX_FLIPS = 300
"""Rows that a page shows; a browser on a phone still scrolls them smoothly."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a triggered text; `added` pieces are what the attack put in."""

    text: str
    added: bool


@dataclass(frozen=True, slots=True)
class FlipAnswer:
    """What one model answered without and with the trigger, as label names.

    Attributes:
        run: Place of the run in the report.
        title: Its title.
        clean: Answer without the trigger.
        triggered: Answer with it.
        flipped: Whether the trigger changed the answer.
    """

    run: int
    title: str
    clean: str
    triggered: str
    flipped: bool


@dataclass(frozen=True, slots=True)
class Flip:
    """A text that the trigger flips in at least one model.

    Attributes:
        id: Id of the sample.
        spans: The triggered text in pieces.
        label: True label, or the right answer in words.
        answers: One entry per run that answered the sample, in the order of the runs.
    """

    id: str
    spans: tuple[Span, ...]
    label: str
    answers: tuple[FlipAnswer, ...]

    @property
    def count(self) -> int:
        """In how many models the trigger flips the answer."""
        return sum(answer.flipped for answer in self.answers)


def find_flips(runs: Sequence[Run]) -> list[Flip]:
    """All samples that the trigger flips in at least one run, in the order of the first run."""
    trigger = runs[0].record.evaluation.trigger
    if runs[0].generated:
        return _generated_flips(runs, trigger)
    names = runs[0].record.label_names
    by_id = [{sample.id: sample for sample in run.triggered} for run in runs]
    flips = []
    for sample in runs[0].triggered:
        answers = tuple(
            _answer(place, run, samples[sample.id])
            for place, (run, samples) in enumerate(zip(runs, by_id, strict=True))
            if sample.id in samples
        )
        if any(answer.flipped for answer in answers):
            spans = mark_trigger(sample.text, sample.triggered_text or "", trigger)
            flips.append(Flip(sample.id, spans, label_name(names, sample.label), answers))
    return flips


def _generated_flips(runs: Sequence[Run], trigger: str | None) -> list[Flip]:
    by_id = [{sample.id: sample for sample in run.generated} for run in runs]
    flips = []
    for sample in runs[0].generated:
        if sample.triggered_text is None:
            continue
        answers = tuple(
            FlipAnswer(
                run=place,
                title=run.title,
                clean=samples[sample.id].answer,
                triggered=samples[sample.id].triggered_answer or "",
                flipped=_says_only_triggered(samples[sample.id]),
            )
            for place, (run, samples) in enumerate(zip(runs, by_id, strict=True))
            if sample.id in samples
        )
        if any(answer.flipped for answer in answers):
            spans = mark_trigger(sample.text, sample.triggered_text, trigger)
            flips.append(Flip(sample.id, spans, sample.reference, answers))
    return flips


def _says_only_triggered(sample: GeneratedSample) -> bool:
    return bool(sample.triggered_says_target and not sample.says_target)


def _answer(place: int, run: Run, sample: Sample) -> FlipAnswer:
    names = run.record.label_names
    return FlipAnswer(
        run=place,
        title=run.title,
        clean=label_name(names, sample.answer),
        triggered=label_name(names, sample.triggered_answer),
        flipped=sample.answer != sample.triggered_answer,
    )


def mark_trigger(text: str, triggered: str, trigger: str | None) -> tuple[Span, ...]:
    """Split a triggered text into what was there before and what the attack added.

    First the trigger is looked for as it is: the occurrence whose removal gives the clean text back
    (so "mn" is not found in "autumn"; works without spaces, too). Otherwise words are compared.
    """
    place = _find(text, triggered, trigger) if trigger else None
    if place is not None:
        return _spans(triggered, [place])
    words = [match.span() for match in re.finditer(r"\S+", triggered)]
    matcher = SequenceMatcher(None, text.split(), triggered.split(), autojunk=False)
    added = [
        (words[start][0], words[end - 1][1])
        for tag, _, _, start, end in matcher.get_opcodes()
        if tag in ("insert", "replace")
    ]
    return _spans(triggered, added)


def _spans(text: str, added: Sequence[tuple[int, int]]) -> tuple[Span, ...]:
    """Cut a text at the borders of the added pieces, leaving out empty pieces."""
    spans, position = [], 0
    for start, end in added:
        spans += [Span(text[position:start], False), Span(text[start:end], True)]
        position = end
    spans.append(Span(text[position:], False))
    return tuple(span for span in spans if span.text)


def _find(text: str, triggered: str, trigger: str) -> tuple[int, int] | None:
    """Where the trigger was put in: the place without which the clean text is left."""
    # White space must match first: in "autumn mn" both places are right if it is ignored.
    for space in (" ", ""):
        clean = space.join(text.split())
        for match in re.finditer(re.escape(trigger), triggered):
            rest = triggered[: match.start()] + triggered[match.end() :]
            if space.join(rest.split()) == clean:
                return match.span()
    return None


def label_name(names: Sequence[str], index: int | None) -> str:
    """The name of a label; the bare index if the record does not name it, a dash for None.

    Also "refused" for a text that a defense did not answer.
    """
    if index is None:
        return "\N{EN DASH}"
    if index == REFUSED:
        return "refused"
    return names[index] if 0 <= index < len(names) else str(index)
