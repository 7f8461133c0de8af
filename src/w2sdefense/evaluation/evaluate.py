"""Makes the test texts of a run, and measures CA, ASR and floor of a predictor on them.

Every text is answered once; answers, features and counts all come from this one pass. The floor is
computed on the clean texts of the samples that ASR is computed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from w2sdefense.attacks import Attack, count_lost
from w2sdefense.attacks.poisoning import drawn_attack, trigger_test_set
from w2sdefense.data.types import REFUSED, Answer, Example, texts_of
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Quality, Rate, chance, mean_of
from w2sdefense.evaluation.record import Evaluation, Sample
from w2sdefense.models.tokenizer import count_control_texts
from w2sdefense.tasks import Prediction, Predictor, Task


@dataclass(frozen=True)
class TestSet:
    """The texts that a model is tested on, made once per command."""

    clean: tuple[Example, ...]  # every test example, after `Attack.plain`
    # the examples that ASR is computed on, with the trigger in their text
    triggered: tuple[Example, ...] = ()
    attack: Attack | None = None  # the attack; None without a trigger
    target: str | None = None  # the target as the user named it
    answer: Answer | None = None  # the target as an answer
    # attack -> indices of the texts in `triggered` that carry its trigger
    by_attack: dict[Attack, list[int]] = field(default_factory=dict)

    __test__: ClassVar[bool] = False  # pytest would collect the class because of its name

    def __len__(self) -> int:
        return len(self.clean) + len(self.triggered)


def make_test_set(
    examples: Sequence[Example],
    task: Task,
    attack: Attack | None = None,
    target: str | None = None,
    *,
    seed: int = 0,
) -> TestSet:
    """Make the test texts; with an attack, also the triggered ones that ASR is computed on.

    `target` is the name of a label, or a text; `seed` determines the positions of the trigger.

    Raises:
        DataError: The target is not a possible answer, or no text with another right answer can
            carry the trigger.
    """
    if attack is None:
        return TestSet(tuple(examples))
    answer = task.target(target)
    triggered = trigger_test_set(examples, attack, answer, seed, task.is_target)
    if not triggered:
        raise DataError(
            f"No test sample with another answer than {target!r} can carry the trigger, so ASR "
            "has nothing to count.",
            "Use test data with other answers, or another --target.",
        )
    by_attack: dict[Attack, list[int]] = {}
    for place, example in enumerate(triggered):
        by_attack.setdefault(drawn_attack(example, attack, seed), []).append(place)
    clean = tuple(attack.plain(example) for example in examples)
    return TestSet(clean, tuple(triggered), attack, target, answer, by_attack)


@dataclass(frozen=True)
class EvaluationResult:
    """The result of one evaluation."""

    evaluation: Evaluation  # CA, ASR and floor with their counts
    samples: tuple[Sample, ...]  # per-sample answers, in the order of the test set
    # "clean" (N, d) and, with a trigger, "triggered" (M, d), float32; empty for text answers
    features: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()  # notes for readers about texts and prompts


def evaluate(
    predictor: Predictor, task: Task, test: TestSet, progress: Callable[[int], None] | None = None
) -> EvaluationResult:
    """Measure CA and, with a trigger, ASR and floor.

    `progress` receives the number of newly answered texts.
    """
    start = time.perf_counter()
    texts = [*texts_of(test.clean), *texts_of(test.triggered)]
    predictions = predictor.predict(texts, progress)
    seconds = time.perf_counter() - start
    clean, fired = predictions[: len(test.clean)], predictions[len(test.clean) :]
    scores = [
        _scores(task, one.answer, example.answer)
        for one, example in zip(clean, test.clean, strict=True)
    ]
    samples = _samples(task, test, clean, fired, scores)
    quality, means = _quality(task, scores)
    evaluation = Evaluation.model_validate(
        {
            "task": task.name,
            "ca": quality,
            "chance": chance([e.answer for e in test.clean]) if task.all_or_nothing else None,
            "scores": means,
            "cut_texts": sum(p.cut_at is not None for p in clean),
            "unfinished": sum(not p.finished for p in clean),
            "refused_texts": sum(p.answer == REFUSED for p in clean),
            "seconds": seconds,
            "defense_seconds": sum(p.defense_seconds for p in predictions),
            "seconds_per_text": seconds / len(predictions),
            **_attacked(test, samples, fired),
        }
    )
    notes = (*_notes(test, samples), *task.notes)
    if controls := count_control_texts(task.tokenizer, texts):
        notes += (
            f"{controls} texts spell control tokens of the model, which were read as plain "
            "characters",
        )
    return EvaluationResult(evaluation, samples, _features(clean, fired), notes)


def _scores(task: Task, answer: Answer, reference: Answer) -> dict[str, float]:
    found = task.scores(answer, reference)
    return dict.fromkeys(found, 0.0) if answer == REFUSED else found


def _quality(task: Task, scores: Sequence[dict[str, float]]) -> tuple[Quality, dict[str, Any]]:
    """The main score as a share or a mean; and for text answers, the means of all scores."""
    means = {name: mean_of([one[name] for one in scores]) for name in scores[0]}
    main: Quality = means[task.metric]
    if task.all_or_nothing:
        # A mean of zeros and ones is a share, for which the Wilson interval is better.
        main = Rate(hits=round(sum(one[task.metric] for one in scores)), total=len(scores))
    return main, means if task.text_answers else {}


def _attacked(
    test: TestSet, samples: Sequence[Sample], fired: Sequence[Prediction]
) -> dict[str, Any]:
    """The fields of an evaluation that concern the trigger."""
    if test.attack is None:
        return {}
    both = [sample for sample in samples if sample.triggered_text is not None]
    hits = [bool(sample.triggered_is_target) for sample in both]
    several = test.by_attack if len(test.by_attack) > 1 else {}
    return {
        "asr": _share(hits),
        "floor": _share([bool(sample.is_target) for sample in both]),
        "trigger": test.attack.trigger,
        "target": test.target,
        "by_trigger": {
            attack.trigger: _share([hits[place] for place in places])
            for attack, places in several.items()
        },
        "length_ratio": sum(len(sample.triggered_text or "") for sample in both)
        / max(1, sum(len(sample.text) for sample in both)),
        # Use the texts that the model read; an input defense may have changed them.
        "cut_triggers": count_lost(
            (attack, fired[place].read or test.triggered[place].text, fired[place].cut_at)
            for attack, places in test.by_attack.items()
            for place in places
        ),
        "refused_triggers": sum(p.answer == REFUSED for p in fired),
    }


def _share(hits: Sequence[bool]) -> Rate:
    return Rate(hits=sum(hits), total=len(hits))


def _notes(test: TestSet, samples: Sequence[Sample]) -> tuple[str, ...]:
    both = [sample for sample in samples if sample.triggered_text is not None]
    return tuple(
        note
        for attack, places in test.by_attack.items()
        for note in attack.notes(
            [both[place].text for place in places],
            [both[place].triggered_text or "" for place in places],
        )
    )


def _samples(
    task: Task,
    test: TestSet,
    clean: Sequence[Prediction],
    fired: Sequence[Prediction],
    scores: Sequence[dict[str, float]],
) -> tuple[Sample, ...]:
    def says_target(answer: Answer) -> bool | None:
        if test.answer is None:
            return None
        return answer != REFUSED and task.is_target(answer, test.answer)

    with_trigger = {
        example.id: {
            "triggered_text": example.text,
            "triggered_read": prediction.read,
            "triggered_answer": prediction.answer,
            "triggered_is_target": says_target(prediction.answer),
        }
        for example, prediction in zip(test.triggered, fired, strict=True)
    }
    return tuple(
        Sample.model_validate(
            {
                "id": example.id,
                "text": example.text,
                "reference": example.answer,
                "read": prediction.read,
                "answer": prediction.answer,
                "is_target": says_target(prediction.answer),
                # The score of a label adds nothing to answer and reference.
                "scores": found if task.text_answers else {},
                **with_trigger.get(example.id, {}),
            }
        )
        for example, prediction, found in zip(test.clean, clean, scores, strict=True)
    )


def _features(clean: Sequence[Prediction], fired: Sequence[Prediction]) -> dict[str, np.ndarray]:
    groups = {"clean": clean, "triggered": fired}
    return {
        name: np.stack([p.feature.numpy() for p in group if p.feature is not None])
        for name, group in groups.items()
        if group and group[0].feature is not None
    }
