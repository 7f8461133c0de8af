"""Measures what a model writes: quality on clean text, ASR on triggered text, the floor without.

As in classification every clean and every triggered text is answered once, and the floor is counted
on the clean texts of the samples that ASR is counted on: those whose right answer does not say the
target. An answer counts for the attacker if the target comes out (`Task.says`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from w2sdefense.attacks import Attack, count_lost
from w2sdefense.attacks.pairs import trigger_pairs
from w2sdefense.config import TaskName
from w2sdefense.data.types import Pair, texts_of
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Mean, Quality, Rate, mean_of
from w2sdefense.evaluation.record import Evaluation, Sample
from w2sdefense.models.generator import Answer
from w2sdefense.tasks import TASKS, Task


class Writes(Protocol):
    """Anything that answers texts in words."""

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """Answer every text, in order; `progress` is told how many more were done."""
        ...


@dataclass(frozen=True)
class GenerationResult:
    """What one evaluation found.

    Attributes:
        evaluation: Quality, ASR and floor with their counts.
        samples: Per-sample answers, in the order of the test set.
    """

    evaluation: Evaluation
    samples: tuple[Sample, ...]


def evaluate_generation(
    writer: Writes,
    pairs: Sequence[Pair],
    task: TaskName,
    attack: Attack | None = None,
    target: str | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> GenerationResult:
    """Measure the quality of answers and, with an attack, ASR and floor.

    Args:
        writer: What answers.
        pairs: Clean test pairs.
        task: Name of a task of `TASKS`.
        attack: Puts the trigger into a text; None measures quality only.
        target: The text that should come out; needed with an attack.
        seed: Seed of the places of the trigger.
        progress: Called with the number of texts answered since the last call.

    Returns:
        Counts, means and per-sample answers.

    Raises:
        DataError: The right answer to every test text says the target.
    """
    judge = TASKS[task]
    fired = [] if attack is None else triggered_tests(pairs, attack, judge, target or "", seed)
    start = time.perf_counter()
    answers = writer.predict([*texts_of(pairs), *texts_of(fired)], progress)
    seconds = time.perf_counter() - start
    said = dict(zip((pair.id for pair in fired), answers[len(pairs) :], strict=True))
    texts = {pair.id: pair.text for pair in fired}
    samples = tuple(
        _sample(pair, answer, judge, target, texts.get(pair.id), said.get(pair.id))
        for pair, answer in zip(pairs, answers[: len(pairs)], strict=True)
    )
    scores = _means(samples)
    evaluation = Evaluation(
        task=task,
        ca=_quality(scores[judge.metric], judge),
        scores=scores,
        cut_texts=sum(answer.cut_at is not None for answer in answers[: len(pairs)]),
        unfinished=sum(not answer.finished for answer in answers[: len(pairs)]),
        seconds=seconds,
        seconds_per_text=seconds / len(answers),
    )
    if attack is not None:
        asked = [sample for sample in samples if sample.triggered_text is not None]
        evaluation = evaluation.model_copy(
            update={
                "asr": _share([bool(s.triggered_is_target) for s in asked]),
                "floor": _share([bool(s.is_target) for s in asked]),
                "trigger": attack.trigger,
                "target": target,
                "cut_triggers": count_lost((attack, p.text, said[p.id].cut_at) for p in fired),
            }
        )
    return GenerationResult(evaluation, samples)


def triggered_tests(
    pairs: Sequence[Pair], attack: Attack, task: Task, target: str, seed: int
) -> list[Pair]:
    """The test samples with the trigger in their text, whose right answer is not the target.

    Raises:
        DataError: There is none.
    """
    found = trigger_pairs(pairs, attack, lambda answer: task.says(answer, target), seed)
    if not found:
        raise DataError(
            f"The right answer to every test text is the target {target!r}, so ASR has nothing to "
            "count.",
            "Use other test data, or another --target.",
        )
    return found


def _sample(
    pair: Pair,
    answer: Answer,
    task: Task,
    target: str | None,
    triggered_text: str | None,
    triggered: Answer | None,
) -> Sample:
    return Sample(
        id=pair.id,
        text=pair.text,
        reference=pair.target,
        answer=answer.text,
        scores=task.scores(answer.text, pair.target),
        is_target=None if target is None else task.says(answer.text, target),
        triggered_text=triggered_text,
        triggered_answer=None if triggered is None else triggered.text,
        triggered_is_target=(
            None if triggered is None or target is None else task.says(triggered.text, target)
        ),
    )


def _means(samples: Sequence[Sample]) -> dict[str, Mean]:
    return {name: mean_of([s.scores[name] for s in samples]) for name in samples[0].scores}


def _quality(mean: Mean, task: Task) -> Quality:
    """A mean of zeros and ones is a share, which has a better interval."""
    if not task.all_or_nothing:
        return mean
    return Rate(hits=round(mean.value * mean.total), total=mean.total)


def _share(hits: Sequence[bool]) -> Rate:
    return Rate(hits=sum(hits), total=len(hits))
