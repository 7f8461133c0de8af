"""Runs the suspect and the cleaned model of a finished defense on the same texts.

The record of the run names both models and the measured trigger. Every word has a pull: the
log-odds of the answer minus the log-odds without the word (leave-one-out). Not covered: defenses
that leave no model, such as those that filter the input.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from w2sdefense.attacks import Attack, TestConfig, attack_from_trigger, make_attack
from w2sdefense.config import GenerationConfig, Settings, StudentConfig, load_settings
from w2sdefense.data.types import Answer, Example
from w2sdefense.errors import ConfigError, DataError, W2SError
from w2sdefense.evaluation.record import (
    RECORD,
    Record,
    Sample,
    load_record,
    load_samples,
    model_folder,
)
from w2sdefense.models.checkpoint import ADAPTER_CONFIG
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.tokenizer import takes_positions
from w2sdefense.report.runs import TITLES
from w2sdefense.tasks.base import IGNORED, Collator, Row
from w2sdefense.text.insertion import word_spans
from w2sdefense.victim import Victim, load_victim

S = TypeVar("S", bound=Settings)

MOST_PIECES = 64
"""Maximum number of pieces of a text; in longer texts a piece has several words."""

MOST_EXAMPLES = 30  # maximum number of test texts of each kind in `_WHERE`
BATCH = 16


@dataclass(frozen=True)
class Pull:
    """A piece of a text and its effect on an answer."""

    text: str  # the piece, with the space before it
    nats: float  # log-odds of the answer to the whole text minus those without the piece


@dataclass(frozen=True)
class Reply:
    """The answer of one model."""

    title: str  # name of the model
    answer: str  # name of the label, or the generated text
    # name of the label -> probability; empty if answers are texts
    probabilities: dict[str, float]
    read: str  # the text after truncation
    towards: str  # the answer whose log-odds define `pulls`
    pulls: tuple[Pull, ...]  # empty for a text of one piece


@dataclass(frozen=True)
class Flip:
    """A test text without its trigger."""

    text: str
    flips: str  # in which models the trigger flips the answer, a value of `_WHERE`


_WHERE = {
    (True, True): "both",
    (False, True): "cleaned",
    (True, False): "suspect",
    (False, False): "neither",
}


class Pair:
    """A suspect and a cleaned model.

    Args:
        titles: Names of the suspect and the cleaned model.
        models: The suspect and the cleaned model.
        attack: Inserts the measured trigger into a text; None if none was measured.
        samples: Answers of both to the test texts; those of the suspect may be missing.

    Attributes:
        examples: Test texts; those that the trigger still flips in the cleaned model come first.
    """

    def __init__(
        self,
        titles: tuple[str, str],
        models: tuple[Victim, Victim],
        attack: Attack | None = None,
        samples: tuple[Sequence[Sample], Sequence[Sample]] = ((), ()),
    ) -> None:
        self.titles, self.models, self.attack = titles, models, attack
        flipped = [{one.id for one in some if one.flipped} for some in samples]
        kinds: dict[str, list[Flip]] = {kind: [] for kind in _WHERE.values()}
        for one in samples[1]:
            kind = _WHERE[one.id in flipped[0], one.id in flipped[1]]
            kinds[kind].append(Flip(one.text, kind))
        self.examples = tuple(one for some in kinds.values() for one in some[:MOST_EXAMPLES])
        self._triggered = {one.text: one.triggered_text for one in samples[1]}
        # A model must not run in two server threads at once, because of its hooks.
        self._lock = threading.Lock()

    @property
    def trigger(self) -> str:
        """The measured trigger; empty if none was measured."""
        return "" if self.attack is None else self.attack.trigger

    def with_trigger(self, text: str, trigger: str) -> str:
        """Insert a trigger into a text; the measured one goes where it was in a test text.

        The trigger is the measured one, the name of an attack, or any text.

        Raises:
            ConfigError: The text or the trigger is empty, or the text cannot carry it.
        """
        known = self.attack is not None and trigger == self.trigger
        recorded = self._triggered.get(text) if known else None
        if recorded is not None:
            return recorded
        if not text.strip():
            raise ConfigError("The text is empty.", "Type a text, or choose a test text.")
        if not trigger.strip():
            raise ConfigError("The trigger is empty.", "Type a trigger.")
        attack = self.attack if known and self.attack else attack_from_trigger(trigger)
        example = Example("typed", text, 0)
        if not attack.applies_to(example):
            raise ConfigError(f"This text cannot carry {trigger!r}.", "Try another text.")
        rng = random.Random(text)
        return attack.drawn(rng).poison(attack.plain(example), rng).text

    def ask(self, text: str) -> tuple[Reply, Reply]:
        """Run both models. The pulls of both refer to the suspect's answer."""
        with self._lock:
            towards = self.models[0].predict([text])[0].answer
            suspect, cleaned = (
                _reply(title, model, text, towards)
                for title, model in zip(self.titles, self.models, strict=True)
            )
        return suspect, cleaned


def open_pair(folder: Path) -> Pair:
    """Open the two models of a finished defense from its output folder.

    Raises:
        DataError: The folder holds no finished defense, or one that left no model.
        W2SError: A model cannot be opened.
    """
    record = load_record(folder)
    student = _section(StudentConfig, record, "student", folder)
    cleaned = _cleaned(folder, record, student)
    generation = _section(GenerationConfig, record, "generation", folder)
    names = record.label_names or None
    suspect, defended = (
        load_victim(config, names, task=record.evaluation.task, generation=generation)
        for config in (student, cleaned)
    )
    title = TITLES.get(record.name, record.name)
    return Pair(
        (f"Suspect: {Path(student.model).name}", f"Cleaned: {title}"),
        (suspect, defended),
        _attack(record, folder),
        (_suspect_samples(folder, student), load_samples(folder)),
    )


def _section(kind: type[S], record: Record, name: str, folder: Path) -> S:
    return load_settings(kind, record.config.get(name, {}), f"{folder / RECORD}, {name}")


def _attack(record: Record, folder: Path) -> Attack | None:
    test = _section(TestConfig, record, "test", folder)
    try:
        return None if test.trigger is None else make_attack(test)
    except W2SError:
        # For example, a file of paraphrases is missing. The user can still type a trigger.
        return None


def _cleaned(folder: Path, record: Record, student: StudentConfig) -> StudentConfig:
    """The settings that open the cleaned model."""
    if record.stage != "defend":
        raise DataError(
            f"{folder} is not the run of a defense, so it has no cleaned model.",
            "Name the folder of a finished w2s defend.",
        )
    place = model_folder(folder)
    is_adapter = (place / ADAPTER_CONFIG).is_file()
    if not (is_adapter or (place / "config.json").is_file()):
        raise DataError(
            f"{folder} holds no model: {record.name} leaves none.",
            "Name the run of a defense that changes the model.",
        )
    if is_adapter and student.base is not None:
        raise DataError(
            f"The adapter in {folder} was trained on top of another adapter.",
            "Rerun w2s defend with --merge --resume, which writes merged/.",
        )
    return student.model_copy(
        update={"model": str(place), "base": student.model if is_adapter else None}
    )


def _suspect_samples(folder: Path, student: StudentConfig) -> list[Sample]:
    """The suspect's answers, from the run's `before/` or from the suspect's own folder."""
    for place in (folder / "before", Path(student.model)):
        if (place / RECORD).is_file():
            return load_samples(place)
    return []


def _reply(title: str, model: Victim, text: str, towards: Answer) -> Reply:
    prediction = model.predict([text])[0]
    names = model.label_names
    read = text[: prediction.cut_at]
    return Reply(
        title=title,
        answer=_name(names, prediction.answer),
        probabilities=dict(zip(names, prediction.probabilities, strict=False)),
        read=read,
        towards=_name(names, towards),
        pulls=pulls(model, read, towards),
    )


def _name(names: Sequence[str], answer: Answer) -> str:
    return names[answer] if isinstance(answer, int) else answer


def pieces(text: str) -> list[str]:
    """Split a text into words with the space before them, or into `MOST_PIECES` runs of words.

    The concatenated pieces are the text.
    """
    ends = [end for _, end in word_spans(text)]
    step = -(-len(ends) // MOST_PIECES) or 1
    kept = ends[step - 1 : -1 : step]
    return [text[a:b] for a, b in zip([0, *kept], [*kept, len(text)], strict=True)]


def pulls(model: Victim, text: str, answer: Answer) -> tuple[Pull, ...]:
    """Leave-one-out effect of every piece of a text on an answer, which need not be the model's."""
    parts = pieces(text)
    if len(parts) < 2:
        return ()
    without = ["".join(parts[:i] + parts[i + 1 :]).strip() for i in range(len(parts))]
    whole, *others = log_odds(model, [text, *without], answer)
    return tuple(Pull(part, whole - odds) for part, odds in zip(parts, others, strict=True))


@torch.inference_mode()
def log_odds(model: Victim, texts: Sequence[str], answer: Answer) -> list[float]:
    """Log-odds of an answer to every text, in nats; a text answer counts whole, with its end."""
    task = model.task
    rows = task.rows([Example(str(place), text, answer) for place, text in enumerate(texts)])
    collate = Collator(task.tokenizer, takes_positions(model.model))
    device = next(model.model.parameters()).device
    model.model.eval()
    found: list[float] = []
    with FeatureTap(model.model) as tap:
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            batch = {name: value.to(device) for name, value in collate(some).items()}
            output = task.output(model.model, tap, batch)
            chances = output.logits.double().log_softmax(-1)
            chances = chances.gather(-1, output.labels[:, None])[:, 0].cpu()
            for row in torch.split(chances, [_answered(row) for row in some]):
                log_p = row.sum().clamp(max=-1e-12)
                found.append(float(log_p - torch.log(-torch.expm1(log_p))))
    return found


def _answered(row: Row) -> int:
    """Number of labels of a row: one, or the number of answer tokens."""
    labels = row["labels"]
    return 1 if isinstance(labels, int) else sum(label != IGNORED for label in labels)
