"""The search for settings: an Optuna study in a file, gone on with whenever it was cut off.

Two things are asked of a student at once: a high clean validation accuracy, and a low exposure
(`signal.py`). Optuna's TPE proposes settings for both; the first trial has the settings that the
search begins with. What trial n proposes depends on the trials before it and on the seed alone, so
a search that was cut off ends as one that was not. Optuna's own pruners know one objective only, so
a trial is stopped when its validation accuracy falls far behind the best one's at the same step.

Of the trials within a tolerance of the best accuracy, the one with the lowest exposure is chosen;
accuracy, then the earlier trial, break a tie. Optuna is an extra of the package and is imported
nowhere else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from w2sdefense.config import TuneConfig, search_span
from w2sdefense.errors import ConfigError, MissingDependencyError
from w2sdefense.evaluation.metrics import Rate

Values = dict[str, float]
"""Setting -> value: alpha, beta, gamma, temperature, lora_r."""

JOURNAL = "study.log"
NAME = "w2sdefense"

STARTUP = 5  # trials at random places before there is anything to learn from

SPANS = ("alpha", "beta", "gamma", "temperature")
RANK = "lora_r"

_ACCURACY, _EXPOSURE, _CURVE, _SECONDS, _AGAIN = "accuracy", "exposure", "curve", "seconds", "again"
"""What a trial notes beside Optuna's own: counts, accuracy by step, wall time, a repetition."""

Watch = Callable[[int, float], None]
"""Told the validation accuracy at a step of a training; raises `StoppedTrial`."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one student: clean validation accuracy, and exposure."""

    accuracy: Rate
    exposure: Rate


@dataclass(frozen=True)
class Trial:
    """One trial that is over; `measured` is None if it was stopped early."""

    number: int
    values: Values
    measured: Measured | None
    seconds: float

    def as_values(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        shares = {} if self.measured is None else asdict(self.measured)
        return {
            "number": self.number,
            "settings": self.values,
            "stopped": self.measured is None,
            **{name: rate.model_dump() for name, rate in shares.items()},
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Choice:
    """The trial that was chosen, and the reason in a sentence or two."""

    trial: Trial
    measured: Measured
    why: str

    @classmethod
    def of(cls, trials: Sequence[Trial], tolerance: float) -> Self | None:
        """Choose; None if no trial came to its end. `tolerance` is accuracy to give up."""
        whole = [(trial, trial.measured) for trial in trials if trial.measured is not None]
        if not whole:
            return None
        best = max(measured.accuracy.value for _, measured in whole)
        # Rounding must not throw out one that lies on the edge.
        kept = [one for one in whole if one[1].accuracy.value >= best - tolerance - 1e-9]
        trial, measured = min(
            kept, key=lambda one: (one[1].exposure.value, -one[1].accuracy.value, one[0].number)
        )
        accuracy, found = measured.accuracy, measured.exposure
        return cls(
            trial,
            measured,
            f"The best clean validation accuracy is {best:.1%}; {len(kept)} of {len(whole)} trials "
            f"lie within {100 * tolerance:g} points of it. Of these, trial {trial.number} "
            f"({accuracy.hits}/{accuracy.total}) follows the fewest candidates: {found.hits} of "
            f"{found.total}.",
        )


Measure = Callable[[int, Values, Watch, bool], Measured]
"""Trains and measures a student: number of the trial, settings, whom to tell, whether it had been
begun before."""


class StoppedTrial(Exception):  # noqa: N818 - no error: the search goes on
    """A training that is not worth going on with."""


def require_optuna() -> Any:
    """Import Optuna."""
    try:
        import optuna
    except ImportError:
        raise MissingDependencyError(
            "Tuning needs Optuna, which is not installed.", "Run pip install 'w2sdefense[tune]'."
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def search(
    measure: Measure,
    start: Mapping[str, float],
    config: TuneConfig,
    folder: Path,
    tell: Callable[[Trial], None],
) -> list[Trial]:
    """Run the trials that are missing in the study of a folder, beginning with some settings.

    `measure` is what a trial does; `tell` is told about every trial when it is over.

    Returns:
        All trials that came to an end, in the order of their numbers.

    Raises:
        MissingDependencyError: Optuna is not installed.
        ConfigError: The file of the study cannot be read.
    """
    optuna = require_optuna()
    study, waiting = _open(optuna, folder / JOURNAL), optuna.trial.TrialState.WAITING
    _run_again(optuna, study)
    space = _Space.of(start, config)
    while len(done := _finished(optuna, study)) < config.trials:
        first = space.first()
        if (
            first is not None
            and not done
            and not study.get_trials(deepcopy=False, states=(waiting,))
        ):
            study.enqueue_trial(first)
        # A sampler that had gone on drawing could not be had back after an interruption.
        study.sampler = optuna.samplers.TPESampler(
            seed=config.seed + len(done), n_startup_trials=STARTUP
        )
        trial = study.ask()
        values = space.suggest(trial)
        tell(_run(optuna, study, trial, len(done), values, measure, config.stop_below))
    return [_as_trial(trial, number, space) for number, trial in enumerate(done)]


@dataclass(frozen=True)
class _Space:
    """What is searched: spans by their logarithm, and choices; beside the values that are kept."""

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
        """The settings that the search begins with; None if they lie outside of it."""
        inside = all(low <= self.begin[name] <= high for name, (low, high) in self.spans.items())
        allowed = all(self.begin[name] in values for name, values in self.choices.items())
        return self.begin if inside and allowed else None

    def suggest(self, trial: Any) -> Values:
        """Have a trial propose settings; all of them, with those that are kept."""
        values = dict(self.kept)
        for name, (low, high) in self.spans.items():
            values[name] = trial.suggest_float(name, low, high, log=True)
        for name, choices in self.choices.items():
            values[name] = trial.suggest_categorical(name, choices)
        return values


def _run(
    optuna: Any,
    study: Any,
    trial: Any,
    number: int,
    values: Values,
    measure: Measure,
    stop_below: float,
) -> Trial:
    """Run one trial to its end, which may be an early one, and note what came out."""
    curves = [done.user_attrs.get(_CURVE, {}) for done in _finished(optuna, study)]
    # Of a trial that was cut off: a training that goes on does not evaluate its first steps again.
    curve: dict[str, float] = dict(trial.user_attrs.get(_CURVE, {}))

    def judge(step: str, accuracy: float) -> None:
        best = max((other[step] for other in curves if step in other), default=accuracy)
        if accuracy < best - stop_below:
            raise StoppedTrial

    def watch(step: int, accuracy: float) -> None:
        curve[str(step)] = accuracy
        trial.set_user_attr(_CURVE, curve)
        judge(str(step), accuracy)

    began = time.monotonic()
    try:
        # It may have been cut off between its last evaluation and its end.
        for step, accuracy in curve.items():
            judge(step, accuracy)
        measured = measure(number, values, watch, trial.user_attrs.get(_AGAIN, False))
    except StoppedTrial:
        measured = None
    seconds = time.monotonic() - began
    trial.set_user_attr(_SECONDS, seconds)
    if measured is None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        trial.set_user_attr(_ACCURACY, measured.accuracy.model_dump())
        trial.set_user_attr(_EXPOSURE, measured.exposure.model_dump())
        study.tell(trial, [measured.accuracy.value, measured.exposure.value])
    return Trial(number, values, measured, seconds)


def _open(optuna: Any, path: Path) -> Any:
    """The study in a file, which a process that was killed may have left locked or half-written."""
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.is_file():
        text = path.read_bytes()
        if not text.endswith(b"\n"):
            path.write_bytes(text[: text.rfind(b"\n") + 1])
    try:
        storage = optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(path))
        )
        # Creating one that is there already would write to the file every time.
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
    """Give the settings of a trial that was cut off to the next one."""
    states = optuna.trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        study.tell(trial.number, state=states.FAIL)
        if trial.params:
            known = {_AGAIN: True, _CURVE: trial.user_attrs.get(_CURVE, {})}
            study.enqueue_trial(trial.params, user_attrs=known)


def _finished(optuna: Any, study: Any) -> list[Any]:
    states = optuna.trial.TrialState
    found: list[Any] = study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED))
    return found


def _as_trial(trial: Any, number: int, space: _Space) -> Trial:
    notes = trial.user_attrs
    measured = None
    if _ACCURACY in notes:
        measured = Measured(Rate(**notes[_ACCURACY]), Rate(**notes[_EXPOSURE]))
    return Trial(number, {**space.kept, **trial.params}, measured, notes[_SECONDS])
