"""`w2s evaluate`, and how every command measures a model: CA, and with a trigger ASR and floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate.utils import gather_object

from w2sdefense.cli.display import Display
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import EvaluateRun
from w2sdefense.commands.start import begin, open_test_set, open_victim
from w2sdefense.config import Settings
from w2sdefense.data import Dataset, fingerprint
from w2sdefense.data.splits import near_notes
from w2sdefense.defenses.base import Defended, victim_of
from w2sdefense.evaluation.evaluate import EvaluationResult, TestSet, evaluate
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.evaluation.record import (
    Evaluation,
    HeldOutDecoy,
    LossPoint,
    Record,
    Stage,
    save_record,
)
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.tasks import Prediction, Predictor
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim


@stage
def run_evaluate(run: EvaluateRun, display: Display) -> Path:
    """Measure a model and write its record; returns the run's folder."""
    if not begin(run.output, run):
        victim, data = open_victim(run.student, run.data, run.task, run.generation)
        measure_as_is(run, victim, data, open_test_set(victim, data, run.test, display), display)
    return run.output


def measure_as_is(
    run: EvaluateRun, victim: Victim, data: Dataset, test: TestSet, display: Display
) -> None:
    """Measure a model that is open already, and write its record."""
    measured = measure(victim, test, run, run.output, "evaluate", data, Clock(), display)
    if this_process().is_main_process:
        measured.save(run.output)
    this_process().wait_for_everyone()


@dataclass(frozen=True)
class Measured:
    """What was measured of a model, to be saved when everything that it speaks of is written."""

    record: Record
    result: EvaluationResult

    def save(self, folder: Path) -> None:
        """Write record, samples and features."""
        save_record(folder, self.record, self.result.samples, self.result.features)


def measure(
    model: Defended,
    test: TestSet,
    run: Settings,
    folder: Path,
    stage: Stage,
    data: Dataset,
    clock: Clock,
    display: Display,
    fingerprints: Mapping[str, str] | None = None,
) -> Measured:
    """Answer the test texts, in all processes.

    Args:
        model: What is measured.
        test: The test texts.
        run: Settings of the run.
        folder: Folder of the run, which names it.
        stage: What the run did.
        data: The dataset that the test texts are from.
        clock: Started with the run.
        display: Shows the progress.
        fingerprints: More of them than those of the test texts and the model.
    """
    victim = victim_of(model)
    prints = {"test": fingerprint(data.test), "model": weights_fingerprint(victim.model)}
    if test.attack is not None:
        prints["triggered"] = fingerprint(test.triggered)
    progress = display.texts(f"evaluate {folder.name}", len(test))
    result = evaluate(DividedPredictor(model), victim.task, test, progress)
    by_position = getattr(victim.model, "labels_by_position", False)
    record = Record(
        name=folder.name,
        stage=stage,
        config=run.model_dump(mode="json"),
        label_names=victim.label_names,
        evaluation=result.evaluation.model_copy(
            update={"labels_by_position": by_position, "held_out": _held_out(victim)}
        ),
        history=_history(model.history),
        fingerprints=prints | dict(fingerprints or {}),
        found=model.found,
        provenance=clock.provenance(),
        notes=(
            *model.notes,
            *data.notes,
            *near_notes(data),
            *(f"{count} rows left out: {why}" for why, count in data.dropped.items() if count),
            *_notes(result.evaluation),
            *result.notes,
        ),
    )
    return Measured(record, result)


def _held_out(victim: Victim) -> tuple[HeldOutDecoy, ...]:
    names = victim.label_names
    return tuple(
        HeldOutDecoy(
            kind=one.kind,
            trigger=one.trigger,
            target=names[one.target] if isinstance(one.target, int) else one.target,
            before=Rate(hits=one.before.hits, total=one.before.total),
            after=Rate(hits=one.after.hits, total=one.after.total),
            floor=Rate(hits=one.after.without, total=one.after.total),
        )
        for one in victim.held_out
    )


def _history(log: Sequence[Mapping[str, float]]) -> tuple[LossPoint, ...]:
    """The points of a Trainer's log that hold losses."""
    names = {"loss", "ce", "kd", "fa", "eval_accuracy", "eval_loss"}
    return tuple(
        LossPoint(step=int(point["step"]), epoch=float(point["epoch"]), losses=losses)
        for point in log
        if (losses := {name: value for name, value in point.items() if name in names})
    )


def _notes(found: Evaluation) -> Iterator[str]:
    """What a reader of the numbers must know of the answers."""
    if found.cut_texts:
        yield f"{found.cut_texts} test texts were longer than the model's limit and were cut"
    if found.refused_texts or found.refused_triggers:
        clean, triggered = found.refused_texts, found.refused_triggers
        yield f"{clean} clean and {triggered} triggered texts were refused"
    if found.cut_triggers:
        yield f"{found.cut_triggers} triggered texts lost their trigger to the cut"
    if found.unfinished:
        yield f"{found.unfinished} answers were stopped at the limit of tokens"


class DividedPredictor:
    """A predictor whose texts are divided between the processes of a launcher (torchrun).

    Every process answers its share and gets the others' answers, so that none waits for minutes at
    a barrier. A model that is sharded (FSDP) is made whole first (`distill/sharding.py`).
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text; all processes must call it with the same texts and get all answers."""
        state = this_process()
        if state.num_processes == 1:
            return list(self._predictor.predict(texts, progress))
        mine = range(state.process_index, len(texts), state.num_processes)
        told = None if progress is None else _for_everyone(progress, len(mine), len(texts))
        answers = self._predictor.predict([texts[place] for place in mine], told)
        everybodys = gather_object(list(zip(mine, answers, strict=True)))
        return [answer for _, answer in sorted(everybodys, key=lambda pair: pair[0])]


def _for_everyone(
    progress: Callable[[int], None], mine: int, everyones: int
) -> Callable[[int], None]:
    """Progress through all texts, scaled from one process's share."""
    done = 0

    def advance(more: int) -> None:
        nonlocal done
        before, done = done, done + more
        progress(done * everyones // mine - before * everyones // mine)

    return advance
