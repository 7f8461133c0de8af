"""`w2s evaluate`, and the measurement of all commands: CA, and with a trigger ASR and floor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from accelerate.utils import gather_object

from w2sdefense.cli.display import Display
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun
from w2sdefense.commands.start import begin, open_test_set, open_victim, save_merged
from w2sdefense.data import Dataset, fingerprint
from w2sdefense.data.splits import near_notes
from w2sdefense.data.types import Example
from w2sdefense.defenses.base import Defended, victim_of
from w2sdefense.distill.held_out import HeldOut
from w2sdefense.evaluation.evaluate import TestSet, evaluate
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
from w2sdefense.training.fit import remove_checkpoints
from w2sdefense.training.trainer import this_process
from w2sdefense.victim import Victim


@stage
def run_evaluate(run: EvaluateRun, display: Display) -> Path:
    """Measure a model and write its record; returns the run's folder."""
    if not begin(run.output, run):
        victim, data = open_victim(run)
        test = open_test_set(victim, data, run.test)
        measure(victim, test, run, data, Clock(), display)
    return run.output


def measure(
    model: Defended,
    test: TestSet,
    run: PoisonRun | EvaluateRun | DefendRun,
    data: Dataset,
    clock: Clock,
    display: Display,
    trained_on: Sequence[Example] = (),
    held_out: Sequence[HeldOut] = (),
    *,
    merge: bool = False,
) -> None:
    """Answer the test texts in all processes, and write the record, samples and features.

    Also saves a model that the run made; with `merge`, a merged copy goes to `merged/`.
    """
    victim = victim_of(model)
    prints = {"test": fingerprint(data.test), "model": weights_fingerprint(victim.model)}
    if test.attack is not None:
        prints["triggered"] = fingerprint(test.triggered)
    if trained_on:
        prints["train"] = fingerprint(trained_on)
    folder = run.output
    progress = display.texts(f"evaluate {folder.name}", len(test))
    result = evaluate(DividedPredictor(model), victim.task, test, progress)
    by_position = getattr(victim.model, "labels_by_position", False)
    record = Record(
        name=folder.name,
        stage=_STAGES[type(run)],
        config=run.model_dump(mode="json"),
        label_names=victim.label_names,
        evaluation=result.evaluation.model_copy(
            update={
                "labels_by_position": by_position,
                "held_out": _in_words(held_out, victim.label_names),
            }
        ),
        history=_history(model.history),
        fingerprints=prints,
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
    if this_process().is_main_process:
        makes = not isinstance(run, EvaluateRun)
        if makes and isinstance(model, Victim):
            model.save(folder)
            if merge:
                save_merged(model, folder)
        save_record(folder, record, result.samples, result.features)
        if makes:
            remove_checkpoints(folder)
    # The next stage of the other processes reads these files.
    this_process().wait_for_everyone()


_STAGES: dict[type, Stage] = {PoisonRun: "poison", EvaluateRun: "evaluate", DefendRun: "defend"}


def _in_words(held_out: Sequence[HeldOut], names: Sequence[str]) -> tuple[HeldOutDecoy, ...]:
    return tuple(
        HeldOutDecoy(
            kind=one.kind,
            trigger=one.trigger,
            target=names[one.target] if isinstance(one.target, int) else one.target,
            before=Rate(hits=one.before.hits, total=one.before.total),
            after=Rate(hits=one.after.hits, total=one.after.total),
            floor=Rate(hits=one.after.without, total=one.after.total),
        )
        for one in held_out
    )


def _history(log: Sequence[Mapping[str, float]]) -> tuple[LossPoint, ...]:
    """The points of a Trainer's log that contain losses."""
    names = {"loss", "ce", "kd", "fa", "eval_accuracy", "eval_loss"}
    return tuple(
        LossPoint(step=int(point["step"]), epoch=float(point["epoch"]), losses=losses)
        for point in log
        if (losses := {name: value for name, value in point.items() if name in names})
    )


def _notes(found: Evaluation) -> Iterator[str]:
    """Notes for readers of the numbers about the answers."""
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
    """A predictor that divides the texts between the processes of a launcher (torchrun).

    Every process answers its share and receives the answers of the others, so that none waits for
    minutes at a barrier. A sharded model (FSDP) must be gathered first, see `distill/sharding.py`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text; all processes must pass the same texts, and all get all answers."""
        state = this_process()
        if state.num_processes == 1:
            return list(self._predictor.predict(texts, progress))
        # The other processes answer about as many texts meanwhile.
        told = progress and (lambda more: progress(more * state.num_processes))
        with state.split_between_processes(list(texts)) as mine:
            answers = self._predictor.predict(mine, told)
        found: list[Prediction] = gather_object(answers)
        # Some releases of accelerate repeat a text if there are fewer texts than processes.
        return found[: len(texts)]
