"""The test texts with the answers of every model, and with the trigger marked.

A flip is a text that is answered with the target only if it carries the trigger. Some flips occur
without a backdoor, because any insertion can change an answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from w2sdefense.data.types import REFUSED
from w2sdefense.evaluation.record import Sample
from w2sdefense.report.runs import Run

MAX_CASES = 300  # maximum texts on a page; a phone browser still handles these quickly
MAX_ANSWERS = 6000  # maximum answers on a page, over all models
FEWEST = 12  # minimum texts per test on a page


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a text; the attack inserted the `added` ones."""

    text: str
    added: bool


@dataclass(frozen=True, slots=True)
class CaseAnswer:
    """One model's answers without and with the trigger (None if not asked), as names or texts."""

    run: int
    clean: str
    triggered: str | None
    flipped: bool


@dataclass(frozen=True, slots=True)
class Case:
    """A test text in pieces, its right answer, and the answers of the models, in their order."""

    id: str
    spans: tuple[Span, ...]
    label: str
    answers: tuple[CaseAnswer, ...]

    @property
    def count(self) -> int:
        """The number of models in which the trigger flips the answer."""
        return sum(answer.flipped for answer in self.answers)


@dataclass(frozen=True, slots=True)
class Cases:
    """Texts of one test: those shown, their total number, and how many the trigger flips."""

    shown: tuple[Case, ...]
    total: int
    flipped: int


def most_cases(runs: int, tests: int) -> int:
    """The number of texts per test for a page with this many runs and tests."""
    return max(FEWEST, min(MAX_CASES // tests, MAX_ANSWERS // runs))


def find_cases(runs: Sequence[Run], places: Sequence[int], most: int) -> Cases:
    """The texts of one test with the answers of the runs at `places`, which share this test.

    At most `most` texts are taken; at least three quarters of these are flips, if there are enough.
    """
    first = runs[places[0]]
    samples = first.samples
    by_run = [
        {sample.id: _answer(place, runs[place], sample) for sample in runs[place].samples}
        for place in places
    ]
    answers = [tuple(by_id[s.id] for by_id in by_run if s.id in by_id) for s in samples]
    flipped = [any(answer.flipped for answer in group) for group in answers]
    trigger = first.record.evaluation.trigger
    shown = tuple(
        Case(
            id=samples[row].id,
            spans=mark_trigger(samples[row].text, samples[row].triggered_text, trigger),
            label=answer_name(first.record.label_names, samples[row].reference),
            answers=answers[row],
        )
        for row in _chosen(flipped, most)
    )
    return Cases(shown, len(samples), sum(flipped))


def _chosen(flipped: Sequence[bool], most: int) -> list[int]:
    """The indices of the rows to show: the first flips and the first other rows, sorted."""
    yes = [row for row, is_flip in enumerate(flipped) if is_flip]
    no = [row for row, is_flip in enumerate(flipped) if not is_flip]
    flips = yes[: max(most - len(no), most * 3 // 4)]
    return sorted(flips + no[: most - len(flips)])


def _answer(place: int, run: Run, sample: Sample) -> CaseAnswer:
    names = run.record.label_names
    return CaseAnswer(
        run=place,
        clean=answer_name(names, sample.answer),
        triggered=(
            None if sample.triggered_text is None else answer_name(names, sample.triggered_answer)
        ),
        flipped=sample.flipped,
    )


def mark_trigger(text: str, triggered: str | None, trigger: str | None) -> tuple[Span, ...]:
    """Split a triggered text into original pieces and pieces that the attack added.

    First looks for the occurrence of the trigger whose removal restores the clean text (so "mn" is
    not found in "autumn"; this also works without spaces). If there is none, compares words.
    """
    if triggered is None:
        return _spans(text, [])
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
    """The span of the inserted trigger: without it, the clean text is left."""
    # First try with white space: without it, "autumn mn" has two matching spans.
    for space in (" ", ""):
        clean = space.join(text.split())
        for match in re.finditer(re.escape(trigger), triggered):
            rest = triggered[: match.start()] + triggered[match.end() :]
            if space.join(rest.split()) == clean:
                return match.span()
    return None


def answer_name(names: Sequence[str], answer: int | str | None) -> str:
    """An answer in words: text, the name (or index) of a label, "refused", or a dash for None."""
    if answer is None:
        return "\N{EN DASH}"
    if isinstance(answer, str):
        return answer
    if answer == REFUSED:
        return "refused"
    return names[answer] if 0 <= answer < len(names) else str(answer)
