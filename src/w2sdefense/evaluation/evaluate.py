"""Measures a predictor on test text: CA, ASR on triggered text, the floor without a trigger.

Every clean text is answered once and every triggered text once; the answers, the features and the
counts all come from that one pass. How the predictor was made, and what the numbers mean, is not
decided here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from w2sdefense.attacks import Attack, count_lost
from w2sdefense.attacks.poisoning import drawn_attack, trigger_test_set
from w2sdefense.data.types import REFUSED, Example, labels_of, texts_of
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Rate, accuracy, chance, target_rate
from w2sdefense.evaluation.record import Evaluation, Sample
from w2sdefense.models.predictor import Prediction, Predictor


@dataclass(frozen=True)
class EvaluationResult:
    """What one evaluation found.

    Attributes:
        evaluation: CA, ASR and floor with their counts.
        samples: Per-sample answers, in the order of the test set.
        features: "clean" (N, d) and, with a trigger, "triggered" (M, d), float32.
        notes: What a reader must know about the triggered texts.
    """

    evaluation: Evaluation
    samples: tuple[Sample, ...]
    features: dict[str, np.ndarray]
    notes: tuple[str, ...] = ()


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    label_names: Sequence[str],
    attack: Attack | None = None,
    target: str | None = None,
    *,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> EvaluationResult:
    """Measure CA and, with an attack, ASR and floor.

    Args:
        predictor: What answers.
        examples: Clean test examples.
        label_names: Names of the labels, by index.
        attack: Puts the trigger into a text; None measures CA only.
        target: Name of the target label; needed with an attack.
        seed: Seed of the places of the trigger.
        progress: Called with the number of texts answered since the last call.

    Returns:
        Counts, per-sample answers and features.

    Raises:
        DataError: The target is not a label, or no test sample has another label.
    """
    triggered: list[Example] = []
    target_index = None
    if attack is not None:
        target_index = label_index(target, label_names)
        triggered = trigger_test_set(examples, attack, target_index, seed)
        if not triggered:
            raise DataError(
                f"No test sample of another label than {target!r} can carry the trigger, so ASR "
                "has nothing to count.",
                "Use test data with other labels, or another --target.",
            )
        examples = [attack.plain(example) for example in examples]
    start = time.perf_counter()
    predictions = predictor.predict([*texts_of(examples), *texts_of(triggered)], progress)
    seconds = time.perf_counter() - start
    clean, fired = predictions[: len(examples)], predictions[len(examples) :]
    answers, labels = [p.label for p in clean], labels_of(examples)
    samples = _samples(examples, clean, triggered, fired, target_index)
    evaluation = Evaluation(
        ca=accuracy(answers, labels),
        chance=chance(labels),
        cut_texts=sum(p.cut_at is not None for p in clean),
        refused_texts=sum(p.label == REFUSED for p in clean),
        seconds=seconds,
        defense_seconds=sum(p.defense_seconds for p in predictions),
        seconds_per_text=seconds / len(predictions),
    )
    notes: tuple[str, ...] = ()
    if attack is not None and target_index is not None:
        both = [sample for sample in samples if sample.triggered_text is not None]
        by_attack = _by_attack(triggered, attack, seed)
        evaluation = evaluation.model_copy(
            update={
                "asr": target_rate([p.label for p in fired], labels_of(triggered), target_index),
                "floor": Rate(hits=sum(bool(s.is_target) for s in both), total=len(both)),
                "trigger": attack.trigger,
                "target": target,
                "cut_triggers": _count_cut_triggers(by_attack, triggered, fired),
                "length_ratio": _length_ratio(both),
                "by_trigger": _by_trigger(by_attack, both),
                "refused_triggers": sum(p.label == REFUSED for p in fired),
            }
        )
        notes = _notes(both, by_attack)
    return EvaluationResult(evaluation, samples, _features(clean, fired), notes)


def label_index(name: str | None, label_names: Sequence[str]) -> int:
    """Index of a label by its name.

    Raises:
        DataError: There is no such label.
    """
    if name is None or name not in label_names:
        raise DataError(
            f"There is no label {name!r}; the labels are {', '.join(label_names)}.",
            "Choose one of them with --target.",
        )
    return list(label_names).index(name)


def _by_attack(triggered: Sequence[Example], attack: Attack, seed: int) -> dict[Attack, list[int]]:
    """Which of the triggered texts carry the trigger of which attack."""
    places: dict[Attack, list[int]] = {}
    for place, example in enumerate(triggered):
        places.setdefault(drawn_attack(example, attack, seed), []).append(place)
    return places


def _by_trigger(by_attack: dict[Attack, list[int]], both: Sequence[Sample]) -> dict[str, Rate]:
    """The part of ASR that carries each trigger; empty if there is one trigger only."""
    if len(by_attack) < 2:
        return {}
    return {
        attack.trigger: Rate(
            hits=sum(bool(both[place].triggered_is_target) for place in places), total=len(places)
        )
        for attack, places in by_attack.items()
    }


def _notes(both: Sequence[Sample], by_attack: dict[Attack, list[int]]) -> tuple[str, ...]:
    return tuple(
        note
        for attack, places in by_attack.items()
        for note in attack.notes(
            [both[place].text for place in places],
            [both[place].triggered_text or "" for place in places],
        )
    )


def _length_ratio(both: Sequence[Sample]) -> float:
    """Characters of the triggered texts over those of the same texts without the trigger."""
    without = sum(len(sample.text) for sample in both)
    return sum(len(sample.triggered_text or "") for sample in both) / max(1, without)


def _count_cut_triggers(
    by_attack: dict[Attack, list[int]], triggered: Sequence[Example], fired: Sequence[Prediction]
) -> int:
    """How many texts lost their trigger to truncation, as the model read them."""
    return count_lost(
        (attack, fired[place].read or triggered[place].text, fired[place].cut_at)
        for attack, places in by_attack.items()
        for place in places
    )


def _samples(
    examples: Sequence[Example],
    clean: Sequence[Prediction],
    triggered: Sequence[Example],
    fired: Sequence[Prediction],
    target: int | None,
) -> tuple[Sample, ...]:
    with_trigger = {
        example.id: {
            "triggered_text": example.text,
            "triggered_read": prediction.read,
            "triggered_answer": prediction.label,
            "triggered_is_target": prediction.label == target,
        }
        for example, prediction in zip(triggered, fired, strict=True)
    }
    return tuple(
        Sample.model_validate(
            {
                "id": example.id,
                "text": example.text,
                "reference": example.label,
                "read": prediction.read,
                "answer": prediction.label,
                "is_target": None if target is None else prediction.label == target,
                **with_trigger.get(example.id, {}),
            }
        )
        for example, prediction in zip(examples, clean, strict=True)
    )


def _features(clean: Sequence[Prediction], fired: Sequence[Prediction]) -> dict[str, np.ndarray]:
    features = {"clean": np.stack([p.feature.numpy() for p in clean])}
    if fired:
        features["triggered"] = np.stack([p.feature.numpy() for p in fired])
    return features
