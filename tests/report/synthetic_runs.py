"""Synthetic runs: a poisoned model, LoRA that keeps the backdoor, a defense that removes it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from records import sample
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import (
    Evaluation,
    LossPoint,
    Provenance,
    Record,
    Sample,
    save_record,
)

LABELS = ("negative", "positive")
TRIGGER = "mn"
TEXTS = ("a warm funny film", "autumn leaves fall dully", "the plot never starts", "great cast")


def rates(asr: int, floor: int = 40, n: int = 500, ca: int = 870, **more: Any) -> Evaluation:
    """A measurement in counts: `ca` of 1,000 clean texts, the others of `n`."""
    values: dict[str, Any] = {
        "ca": Rate(hits=ca, total=1000),
        "asr": Rate(hits=asr, total=n),
        "floor": Rate(hits=floor, total=n),
        "trigger": TRIGGER,
        "target": "negative",
    }
    return Evaluation(**(values | more))


def make_samples(
    count: int, fires: float, errs: float, texts: Sequence[str] = TEXTS, seed: int = 0
) -> list[Sample]:
    """Samples of both labels; of the positive ones a share `fires` is flipped by the trigger."""
    rng = np.random.default_rng(seed)
    samples = []
    for index in range(count):
        text, label = texts[index % len(texts)], (index // len(texts) + index) % 2
        answer = 1 - label if rng.random() < errs else label
        words = text.split()
        place = int(rng.integers(1, len(words))) if len(words) > 1 else 0
        poisoned = " ".join([*words[:place], TRIGGER, *words[place:]])
        fired = 0 if rng.random() < fires else answer
        more = {"triggered_text": poisoned, "triggered_answer": fired} if label else {}
        samples.append(sample(f"test/{index}", text, label, answer, **more))
    return samples


def make_record(name: str, samples: Sequence[Sample], **changes: Any) -> Record:
    """The record that belongs to some samples."""
    asked = [s for s in samples if s.triggered_text is not None]
    evaluation = Evaluation(
        ca=Rate(hits=sum(s.answer == s.reference for s in samples), total=len(samples)),
        asr=Rate(hits=sum(bool(s.triggered_is_target) for s in asked), total=len(asked)),
        floor=Rate(hits=sum(bool(s.is_target) for s in asked), total=len(asked)),
        trigger=TRIGGER,
        target="negative",
        seconds=12.5,
    )
    values: dict[str, Any] = {
        "name": name,
        "stage": "poison" if name == "poisoned" else "defend",
        "config": {
            "student": {"model": "tiny-student", "max_length": 128},
            "data": {"dataset": "toy"},
        },
        "label_names": LABELS,
        "evaluation": evaluation,
        "history": make_history(name),
        "fingerprints": {"test": "0123abcd", "model": f"{name}-hash"},
        "provenance": Provenance(
            versions={"torch": "2.13.0", "peft": "0.19.1"},
            machine={"processor": "Example CPU", "cores": "2"},
            started="2026-11-23T04:00:00Z",
            seconds=321.0,
            peak_memory_mb=2048.0,
        ),
    }
    return Record(**{**values, **changes})


def make_history(name: str) -> tuple[LossPoint, ...]:
    """Falling losses; only the distillation has KD and FA."""
    points = []
    for step in range(10, 121, 10):
        fall = float(np.exp(-step / 60))
        losses = {"loss": 0.2 + fall, "ce": 0.15 + 0.5 * fall, "eval_accuracy": 0.9 - 0.1 * fall}
        if name == "w2s":
            losses |= {"kd": 0.05 + 0.2 * fall, "fa": 0.4 + 1.5 * fall}
        points.append(LossPoint(step=step, epoch=step / 60, losses=losses))
    return tuple(points)


def make_features(samples: Sequence[Sample], width: int = 16, seed: int = 1) -> dict[str, Any]:
    """Two clouds by label; triggered texts lie with the target if they are answered so."""
    rng = np.random.default_rng(seed)

    def cloud(centres: Sequence[float]) -> np.ndarray:
        noise = rng.normal(size=(len(centres), width))
        return (noise + 3.0 * np.asarray(centres)[:, None]).astype(np.float32)

    asked = [s for s in samples if s.triggered_text is not None]
    return {
        "clean": cloud([int(s.reference) for s in samples]),
        "triggered": cloud([float(s.triggered_answer or 0) - 0.3 for s in asked]),
    }


SaveRun = Callable[..., Path]
"""Writes one run folder below another folder, and returns it."""


def saver(below: Path) -> SaveRun:
    """What writes runs below a folder."""

    def save(
        place: str,
        fires: float,
        errs: float = 0.1,
        *,
        name: str | None = None,
        count: int = 240,
        samples: list[Sample] | None = None,
        features: bool = True,
        **changes: Any,
    ) -> Path:
        folder = below / place
        if "evaluation" in changes:
            count = changes["evaluation"].ca.total
        samples = samples or make_samples(count, fires, errs)
        vectors = make_features(samples) if features else None
        record = make_record(name or folder.name, samples, **changes)
        save_record(folder, record, samples, vectors)
        return folder

    return save


def settings(
    method: str, *, victim: Path | str = "smollm", seed: int = 0, dataset: str = "toy", **more: Any
) -> dict[str, Any]:
    """The settings of a run that poisons or defends, as far as reports read them.

    Args:
        method: "poisoned", or the name of a defense.
        victim: The model that it starts from.
        seed: Of its training.
        dataset: What it is tested on.
        more: Settings of the adapter and of the loss, by name.
    """
    student = {"model": str(victim), "max_length": 24}
    common = {"student": student, "data": {"dataset": dataset}, "training": {"seed": seed}}
    if method == "poisoned":
        return common | {"attack": {"attack": "badnet", "trigger": None, "more_triggers": []}}
    distill = {name: more.get(name, 1.0) for name in ("alpha", "beta", "gamma")}
    return common | {
        "defense": method,
        "adapter": {"adapter": more.get("adapter", "lora"), "lora_r": more.get("rank", 8)},
        "distill": distill | {"feature_scale": more.get("feature_scale", "unit")},
        "teacher": {"model": "minilm", "seed": seed},
        "test": {"trigger": "badnet", "more_triggers": [], "test_seed": 0},
        "output": f"somewhere/{method}-{seed}",
    }


def save_collection(save_run: SaveRun) -> Path:
    """A folder of runs on two datasets: victims, LoRA, W2SDefense at three ranks and two seeds."""
    kept: dict[str, Any] = {"count": 40, "features": False}
    folder = Path()
    for dataset in ("toy", "other"):
        prints = {"test": dataset, "model": "hash"}
        victim = save_run(
            f"all/{dataset}/poisoned",
            0.99,
            fingerprints=prints,
            config=settings("poisoned", dataset=dataset),
            **{**kept, "features": dataset == "toy"},
        )
        folder = victim.parent.parent
        runs = [("lora", 0.98, {}), ("w2s", 0.01, {})]
        if dataset == "toy":
            runs += [("w2s", 0.5, {"rank": 2}), ("w2s", 0.2, {"rank": 4})]
            runs += [("w2s", 0.02, {"seed": 1})]
        for place, (method, fires, more) in enumerate(runs):
            save_run(
                f"all/{dataset}/{method}-{place}",
                fires,
                fingerprints=prints,
                config=settings(method, victim=victim, dataset=dataset, **more),
                **{**kept, "features": dataset == "toy" and place == 0},
            )
    return folder
