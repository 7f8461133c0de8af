"""Chooses the settings of W2SDefense without a known trigger: a signal, a search, a choice.

**Signal.** The exposure measures whether a student follows candidate triggers, which a search in
the *poisoned* model (`scan/`) finds. With S the student, T the teacher, x a clean validation text
of another label than c, and x + p the text with a candidate p that shifts to c:

    follows(x, p) = 1  if  S(x) != c,  S(x + p) = c  and  T(x + p) != c,  else 0
    exposure      = mean of follows(x, p) over all texts and candidates

It counts answers, so that a student cannot look better by being less confident.
`benchmarks/results/tuning_signal.md` shows how well it predicts ASR. An exposure of 0 is no proof:
it does not cover triggers that are unlike all candidates, or that are not insertions.

**Search.** An Optuna study, stored in a file, maximizes clean validation accuracy and minimizes
exposure. The proposal of trial n depends only on the earlier trials and the seed, so an interrupted
search gives the same result when it is resumed.

**Choice.** Among the trials within a tolerance of the best accuracy, the one with the lowest
exposure is chosen; ties are broken by accuracy, then by the earlier trial.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from w2sdefense.config import SignalConfig, TuneConfig, search_span
from w2sdefense.data.types import Example, texts_of
from w2sdefense.errors import ConfigError, DataError, import_extra
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.scan.groups import Score
from w2sdefense.scan.search import Candidate, ranked
from w2sdefense.tasks import Predictor
from w2sdefense.text.insertion import insert, word_spans

Values = dict[str, float]  # setting -> value: alpha, beta, gamma, temperature, lora_r
JOURNAL = "study.log"
NAME = "w2sdefense"

STARTUP = 5  # random trials before the sampler uses earlier results

SPANS = ("alpha", "beta", "gamma", "temperature")
RANK = "lora_r"

_ACCURACY, _EXPOSURE, _SECONDS, _AGAIN = "accuracy", "exposure", "seconds", "again"
"""User attributes of a trial: counts, wall time, and whether it repeats an interrupted one."""


@dataclass(frozen=True)
class Try:
    """A candidate in one of the clean texts, and whether the clean teacher follows it there.

    `place` is the index of the clean text in `Probes.texts`.
    """

    candidate: Candidate
    place: int
    text: str
    teacher_follows: bool


@dataclass(frozen=True)
class Probes:
    """The texts for every student: clean validation texts, and the same texts with candidates."""

    texts: tuple[str, ...]
    tries: tuple[Try, ...]


def make_probes(
    candidates: Sequence[Candidate],
    teacher: Score,
    examples: Sequence[Example],
    config: SignalConfig,
    seed: int,
) -> Probes:
    """Insert candidates into clean texts.

    Only the shorter half of the examples is used, because a candidate has more effect there.

    Raises:
        DataError: There are no candidates, or no texts with another label than theirs.
    """
    rng = random.Random(seed)
    clean: dict[str, int] = {}
    tries: list[tuple[Candidate, int, str]] = []
    for label in sorted({candidate.outcome for candidate in candidates}):
        texts = _shorter_half([e for e in examples if e.label != label])
        texts = rng.sample(texts, min(config.texts, len(texts)))
        for candidate in ranked([c for c in candidates if c.outcome == label])[: config.pieces]:
            for text in texts:
                changed = insert(text, candidate.text, "random", rng)
                tries.append((candidate, clean.setdefault(text, len(clean)), changed))
    if not tries:
        raise DataError(
            "The search found no candidates that fit the validation texts.",
            "Use more training and validation texts, of several labels.",
        )
    said = teacher([text for _, _, text in tries]).argmax(-1).tolist()
    return Probes(
        tuple(clean),
        tuple(
            Try(candidate, place, text, answer == candidate.outcome)
            for (candidate, place, text), answer in zip(tries, said, strict=True)
        ),
    )


def exposure(
    student: Predictor, probes: Probes, progress: Callable[[int], None] | None = None
) -> Rate:
    """How often a student follows candidates that the teacher does not follow; low is good.

    The tries share texts and candidates, so the interval of this rate would be too narrow.
    """
    asked = [*probes.texts, *(one.text for one in probes.tries)]
    answers = [answer.answer for answer in student.predict(asked, progress)]
    clean, changed = answers[: len(probes.texts)], answers[len(probes.texts) :]
    follows = [
        clean[one.place] != one.candidate.outcome == answer and not one.teacher_follows
        for one, answer in zip(probes.tries, changed, strict=True)
    ]
    return Rate(hits=sum(follows), total=len(follows))


def _shorter_half(examples: Sequence[Example]) -> list[str]:
    texts = sorted(texts_of(examples), key=lambda text: len(word_spans(text)))
    return texts[: (len(texts) + 1) // 2]


@dataclass(frozen=True)
class Measured:
    """The measurements of one student: clean validation accuracy, and exposure."""

    accuracy: Rate
    exposure: Rate


@dataclass(frozen=True)
class Trial:
    """One completed trial."""

    number: int
    values: Values
    measured: Measured
    seconds: float

    def as_values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            "number": self.number,
            "settings": self.values,
            "accuracy": self.measured.accuracy.model_dump(),
            "exposure": self.measured.exposure.model_dump(),
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Choice:
    """The chosen trial, and the reason in words."""

    trial: Trial
    why: str

    @classmethod
    def of(cls, trials: Sequence[Trial], tolerance: float) -> Self:
        """Choose a trial; `tolerance` is the largest acceptable loss of accuracy."""
        best = max(trial.measured.accuracy.value for trial in trials)
        # The small term keeps a trial on the boundary despite rounding.
        kept = [one for one in trials if one.measured.accuracy.value >= best - tolerance - 1e-9]

        def rank(trial: Trial) -> tuple[float, float, int]:
            it = trial.measured
            return it.exposure.value, -it.accuracy.value, trial.number

        trial = min(kept, key=rank)
        accuracy, found = trial.measured.accuracy, trial.measured.exposure
        return cls(
            trial,
            f"The best clean validation accuracy is {best:.1%}; {len(kept)} of {len(trials)} "
            f"trials lie within {100 * tolerance:g} points of it. Of these, trial {trial.number} "
            f"({accuracy.hits}/{accuracy.total}) follows the fewest candidates: {found.hits} of "
            f"{found.total}.",
        )


Measure = Callable[[int, Values, bool], Measured]
"""Trains and measures a student, given trial number, settings, and whether to resume the trial."""


def require_optuna() -> Any:
    """Import Optuna and silence it."""
    optuna = import_extra("optuna", "tune", "w2s tune")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def search(
    measure: Measure,
    start: Mapping[str, float],
    config: TuneConfig,
    folder: Path,
    tell: Callable[[Trial], None],
) -> list[Trial]:
    """Run the missing trials of the study in a folder; a new study begins with `start`.

    `measure` runs a trial; `tell` is called with every completed trial.

    Returns:
        All completed trials, in the order of their numbers.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigError: The file of the study cannot be read.
    """
    optuna = require_optuna()
    study, states = _open(optuna, folder / JOURNAL), optuna.trial.TrialState
    _run_again(optuna, study)
    space = _Space.of(start, config)
    begun = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.WAITING))
    if not begun and (first := space.first()) is not None:
        study.enqueue_trial(first)
    while len(done := study.get_trials(deepcopy=False, states=(states.COMPLETE,))) < config.trials:
        # A new sampler for every trial, because the state of one could not be restored on resume.
        study.sampler = optuna.samplers.TPESampler(
            seed=config.seed + len(done), n_startup_trials=STARTUP
        )
        trial, began = study.ask(), time.monotonic()
        values = space.suggest(trial)
        measured = measure(len(done), values, trial.user_attrs.get(_AGAIN, False))
        seconds = time.monotonic() - began
        trial.set_user_attr(_SECONDS, seconds)
        trial.set_user_attr(_ACCURACY, measured.accuracy.model_dump())
        trial.set_user_attr(_EXPOSURE, measured.exposure.model_dump())
        study.tell(trial, [measured.accuracy.value, measured.exposure.value])
        tell(Trial(len(done), values, measured, seconds))
    return [_as_trial(trial, number, space) for number, trial in enumerate(done)]


@dataclass(frozen=True)
class _Space:
    """The search space: log-uniform spans and choices, and the values that stay fixed (`kept`)."""

    kept: Values
    begin: Values
    spans: dict[str, tuple[float, float]]
    choices: dict[str, tuple[float, ...]]

    @classmethod
    def of(cls, start: Mapping[str, float], config: TuneConfig) -> _Space:
        texts = {name: getattr(config, name) for name in SPANS}
        ends = {name: search_span(text) for name, text in texts.items() if text is not None}
        spans = {name: (low, high) for name, (low, high) in ends.items() if low < high}
        choices: dict[str, tuple[float, ...]] = {RANK: config.lora_r} if config.lora_r else {}
        searched = spans.keys() | choices.keys()
        kept = {name: value for name, value in start.items() if name not in searched}
        kept |= {name: low for name, (low, high) in ends.items() if low == high}
        return cls(kept, {name: start[name] for name in searched}, spans, choices)

    def first(self) -> Values | None:
        """The settings that the search begins with; None if they are outside the search space."""
        inside = all(low <= self.begin[name] <= high for name, (low, high) in self.spans.items())
        allowed = all(self.begin[name] in values for name, values in self.choices.items())
        return self.begin if inside and allowed else None

    def suggest(self, trial: Any) -> Values:
        """The settings that a trial proposes, including the fixed ones."""
        values = dict(self.kept)
        for name, (low, high) in self.spans.items():
            values[name] = trial.suggest_float(name, low, high, log=True)
        for name, choices in self.choices.items():
            values[name] = trial.suggest_categorical(name, choices)
        return values


def _open(optuna: Any, path: Path) -> Any:
    """Open the study in a file, which a killed process may have left locked or incomplete."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.is_file():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            path.write_bytes(text[: text.rfind(b"\n") + 1])
    try:
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(path))
        )
        # `create_study` would write to the file even if the study exists.
        if NAME in optuna.get_all_study_names(storage):
            return optuna.load_study(study_name=NAME, storage=storage)
        return optuna.create_study(
            storage=storage, study_name=NAME, directions=["maximize", "minimize"]
        )
    except (json.JSONDecodeError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{path} is not a study: {error}.", "Remove it, or choose another --output."
        ) from None


def _run_again(optuna: Any, study: Any) -> None:
    """Queue the settings of an interrupted trial for the next one."""
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        if trial.params:
            study.enqueue_trial(trial.params, user_attrs={_AGAIN: True})


def _as_trial(trial: Any, number: int, space: _Space) -> Trial:
    notes = trial.user_attrs
    measured = Measured(Rate(**notes[_ACCURACY]), Rate(**notes[_EXPOSURE]))
    return Trial(number, {**space.kept, **trial.params}, measured, notes[_SECONDS])
