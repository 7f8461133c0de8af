"""Plants decoys in a suspect while its student is trained.

A small LoRA teaches the suspect to answer every decoy with its target, in rounds. After each round,
every decoy is tried in held-out texts with another answer; the fewer texts it flips, the more often
it is drawn in the next round. The LoRA stays in its file, so that an interrupted run finds the same
decoys. It is in the model only while the student is trained (`planted.py`). The attacker's model
and the saved student thus contain no decoys, and the student answers the unknown trigger less often
than if they stayed in (docs/decoys.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, set_seed

from w2sdefense.config import AdapterConfig, TrainingConfig
from w2sdefense.data.types import Answer, Dataset, Example, texts_of
from w2sdefense.distill.decoys import Decoy
from w2sdefense.distill.planted import LORA, Planted
from w2sdefense.distill.student import Lesson
from w2sdefense.io import atomic_path, make_folder, read_json, readable, write_json
from w2sdefense.models.adapters import attach_adapter, folded
from w2sdefense.models.weights import weights_fingerprint
from w2sdefense.training.fit import fit, remove_checkpoints, task_collator, task_forward
from w2sdefense.training.trainer import StepProgress, this_process
from w2sdefense.victim import Flips, Victim

ADAPTER = AdapterConfig(lora_r=16, lora_dropout=0.0, target_modules="all-linear")
TRAINING = TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, weight_decay=0.0)
ROUNDS, STEPS = 6, 30
"""Maximum number of rounds, and optimizer steps per round."""

RATE, AGAINST = 0.75, 0.75
"""Share of the texts that carry a decoy during planting, and among these the share whose decoy has
another target than the text's answer. A decoy whose target is the right answer teaches little."""

CHECKED = 16
"""Number of held-out texts that every decoy is tried in."""

WORKS = 0.8
"""A decoy counts as planted if it flips at least this share of them."""

_FLOOR = 0.15
"""Sampling weight of a decoy that flips every text; it is still drawn, so that it is not lost."""


def plant(
    victim: Victim,
    decoys: Sequence[Decoy],
    data: Dataset,
    folder: Path,
    *,
    seed: int,
    progress: StepProgress | None = None,
) -> Planted:
    """Train a LoRA on a victim until decoys flip nearly all texts.

    Args:
        victim: The suspect; an adapter that it has is merged, otherwise it does not change.
        decoys: The decoys to plant.
        data: Clean data; `train` is trained on, `validation` shows whether it worked.
        folder: Where the LoRA is stored, and looked up for the same victim, decoys and seed.
        seed: Seed of the texts and of the LoRA.
        progress: Called after every step with (step, maximum number of steps, losses).

    Returns:
        The planted decoys; `put_in` adds their LoRA to a model.
    """
    make_folder(folder)
    victim.model = folded(victim.model)
    key = {
        "victim": weights_fingerprint(victim.model),
        "decoys": [[decoy.kind, decoy.value, decoy.target] for decoy in decoys],
        "seed": seed,
    }
    flips = _found(folder, key)
    if flips is None:
        flips = _train(victim, decoys, data, folder, seed, progress)
        if this_process().is_main_process:
            state = get_peft_model_state_dict(victim.model)
            with atomic_path(folder / LORA) as path:
                save_file({name: value.contiguous() for name, value in state.items()}, path)
            write_json(folder / "planted.json", {**key, "flips": [vars(t) for t in flips]})
        this_process().wait_for_everyone()
        victim.model = cast(PreTrainedModel, victim.model.unload())
    pairs = list(zip(decoys, flips, strict=True))
    return Planted(
        tuple(decoy for decoy, one in pairs if _is_planted(one)),
        tuple(one for one in flips if _is_planted(one)),
        tuple(decoy for decoy, one in pairs if not _is_planted(one)),
        folder,
    )


def with_decoys(
    rows: Sequence[Example],
    decoys: Sequence[Decoy],
    rate: float,
    seed: int,
    *,
    against: float = 0.65,
) -> Lesson:
    """Add decoys to some rows, which keep their answers.

    Args:
        rows: Clean rows.
        decoys: The decoys to unlearn.
        rate: Share of the rows that get a decoy.
        seed: Seed of all choices.
        against: Share of these rows whose decoy has another target than the row's answer.

    Returns:
        The changed rows for the student, and the clean rows for the teacher.
    """
    if not decoys or not rate:
        return Lesson.plain(rows)
    rng = random.Random(f"unlearn/{seed}")
    weights = [1.0] * len(decoys)
    carried = [
        _carrying(row, _draw(row.answer, decoys, weights, against, rng), rng, "decoy")
        if rng.random() < rate
        else row
        for row in rows
    ]
    return Lesson(tuple(carried), tuple(rows))


def count_flips(
    victim: Victim,
    decoys: Sequence[Decoy],
    examples: Sequence[Example],
    seed: int,
    texts: int = CHECKED,
) -> list[Flips]:
    """Count the texts that each decoy makes a model answer with its target.

    Args:
        victim: The model.
        decoys: The decoys to try.
        examples: Clean examples; each decoy is tried in some that have another answer.
        seed: Seed of the texts and positions.
        texts: Maximum number of texts per decoy.
    """
    rng = random.Random(f"check/{seed}")
    is_target = victim.task.is_target
    chosen = []
    for decoy in decoys:
        others = [e for e in examples if not is_target(e.answer, decoy.target)]
        chosen.append(rng.sample(others, min(texts, len(others))))
    clean = list(dict.fromkeys(text for rows in chosen for text in texts_of(rows)))
    asked = [decoy.apply(e.text, rng) for d, decoy in enumerate(decoys) for e in chosen[d]]
    answers = [one.answer for one in victim.predict([*clean, *asked])]
    as_is = dict(zip(clean, answers[: len(clean)], strict=True))
    fired = iter(answers[len(clean) :])
    return [
        Flips(
            hits=sum(is_target(next(fired), decoy.target) for _ in rows),
            without=sum(is_target(as_is[e.text], decoy.target) for e in rows),
            total=len(rows),
        )
        for decoy, rows in zip(decoys, chosen, strict=True)
    ]


def _train(
    victim: Victim,
    decoys: Sequence[Decoy],
    data: Dataset,
    folder: Path,
    seed: int,
    progress: StepProgress | None,
) -> list[Flips]:
    """Train in rounds until every decoy is planted; returns what each flips at the end."""
    set_seed(seed)
    task, model = victim.task, attach_adapter(victim.model, ADAPTER)
    victim.model = model
    # Only the LoRA is trained; a classifier's head keeps the attacker's weights.
    for name, parameter in model.named_parameters():
        if "lora_" not in name:
            parameter.requires_grad_(False)
    weights = [1.0] * len(decoys)
    flips: list[Flips] = []
    for turn in range(ROUNDS):
        rows = _planting_rows(data.train, decoys, weights, f"plant/{seed}/{turn}")
        training = TRAINING.model_copy(update={"seed": seed + turn})
        fit(
            model,
            task_collator(task, model),
            task_forward(task, model),
            task.rows(rows),
            None,
            training=training,
            folder=folder,
            progress=_after(progress, turn),
        )
        remove_checkpoints(folder)
        flips = count_flips(victim, decoys, data.validation, seed)
        if all(map(_is_planted, flips)):
            break
        weights = [_FLOOR + 1 - one.hits / max(1, one.total) for one in flips]
    return flips


def _is_planted(flips: Flips) -> bool:
    return flips.hits >= WORKS * flips.total


def _after(progress: StepProgress | None, turn: int) -> StepProgress | None:
    if progress is None:
        return None
    return lambda step, steps, losses: progress(turn * STEPS + step, ROUNDS * STEPS, losses)


def _planting_rows(
    train: Sequence[Example], decoys: Sequence[Decoy], weights: Sequence[float], seed: str
) -> list[Example]:
    """The rows of one round; a row with a decoy is answered with the decoy's target."""
    rng = random.Random(seed)
    count = STEPS * TRAINING.batch_size
    rows = rng.sample(list(train), min(count, len(train)))
    rows += rng.choices(list(train), k=count - len(rows))
    planted = []
    for place, row in enumerate(rows):
        if rng.random() < RATE:
            decoy = _draw(row.answer, decoys, weights, AGAINST, rng)
            carrying = _carrying(row, decoy, rng, f"decoy/{place}")
            planted.append(Example(carrying.id, carrying.text, decoy.target))
        else:
            planted.append(row)
    return planted


def _draw(
    answer: Answer,
    decoys: Sequence[Decoy],
    weights: Sequence[float],
    against: float,
    rng: random.Random,
) -> Decoy:
    """Draw a decoy for a row; with probability `against` its target is not the row's answer."""
    other = rng.random() < against
    places = [i for i, decoy in enumerate(decoys) if (decoy.target != answer) == other]
    places = places or list(range(len(decoys)))
    return decoys[rng.choices(places, [weights[place] for place in places])[0]]


def _carrying(row: Example, decoy: Decoy, rng: random.Random, name: str) -> Example:
    return Example(f"{row.id}+{name}", decoy.apply(row.text, rng), row.answer)


def _found(folder: Path, key: dict[str, Any]) -> list[Flips] | None:
    """The flips of a stored LoRA with the same key; None if there is none."""

    def read() -> list[Flips] | None:
        kept = read_json(folder / "planted.json")
        flips = [Flips(**one) for one in kept.pop("flips")]
        if kept != json.loads(json.dumps(key)):
            return None
        load_file(folder / LORA)
        return flips

    return readable(read)
