"""Plants decoys into a suspect, for as long as its student is trained.

A small LoRA teaches the suspect to answer every decoy with its target, in rounds: after a round
each decoy is put into held-out texts with another answer, and those that do not flip nearly all of
them are drawn more often in the next. The LoRA is folded into the weights in place. What the
weights were is kept in a file, never as a second copy in memory, and put back when the student is
trained: the attacker's model and what is written of the student stay free of decoys. Put back, the
student answers the unknown trigger less often than with the decoys left in (docs/decoys.md). The
LoRA stays in its file, so that a run that was killed finds the same decoys planted.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, set_seed
from transformers.pytorch_utils import Conv1D

from w2sdefense.config import AdapterConfig, TrainingConfig
from w2sdefense.data.types import Answer, Dataset, Example, texts_of
from w2sdefense.distill.decoys import Decoy
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
"""Most rounds, and the optimizer steps of each."""

RATE, AGAINST = 0.75, 0.75
"""Share of the texts that carry a decoy while it is planted, and of those the share whose decoy has
another target than their answer: a decoy in a text that has its target teaches nothing new."""

CHECKED = 16
"""Held-out texts that every decoy is tried in."""

PLANTED = 0.8
"""Share of them that a decoy that is planted flips at least."""

LORA = "planted.safetensors"

_FLOOR = 0.15
"""Weight of a decoy that never fails: it is still drawn now and then, so that it is not lost."""


@dataclass(frozen=True)
class Planted:
    """Decoys that a LoRA teaches a model.

    Attributes:
        decoys: Those that flip nearly all texts.
        flips: How they do, in the same order.
        failed: Those that could not be planted.
        folder: Where the LoRA is, and what the weights were while it is put in.
    """

    decoys: tuple[Decoy, ...]
    flips: tuple[Flips, ...]
    failed: tuple[Decoy, ...]
    folder: Path

    @property
    def lost(self) -> str:
        """Those that could not be planted, by name."""
        return ", ".join(repr(decoy.value) for decoy in self.failed)

    @contextmanager
    def put_in(self, model: PreTrainedModel | PeftModel) -> Iterator[None]:
        """Fold the LoRA into the weights of a model, whatever adapter is around them.

        What the weights were is kept in a file and put back at the end.
        """
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        weights = {_plain(name): value for name, value in base.named_parameters()}
        lora, kept = load_file(self.folder / LORA), self.folder / "weights.safetensors"
        pairs = {
            _plain(name): (lora[name.replace("lora_A", "lora_B")], lora[name])
            for name in lora
            if "lora_A" in name
        }
        if this_process().is_main_process:
            before = {name: weights[name].detach().cpu().contiguous() for name in pairs}
            with atomic_path(kept) as path:
                save_file(before, path)
        this_process().wait_for_everyone()
        for name, (second, first) in pairs.items():
            layer = base.get_submodule(name.removesuffix(".weight"))
            change = second.float() @ first.float()  # the scale of ADAPTER is 1
            if isinstance(getattr(layer, "base_layer", layer), Conv1D):
                change = change.T
            weights[name].data.add_(change.to(weights[name]))
        yield
        for name, value in load_file(kept).items():
            weights[name].data.copy_(value)
        this_process().wait_for_everyone()
        kept.unlink(missing_ok=True)


def plant(
    victim: Victim,
    decoys: Sequence[Decoy],
    data: Dataset,
    folder: Path,
    *,
    seed: int,
    progress: StepProgress | None = None,
) -> Planted:
    """Train a LoRA on a victim until decoys flip nearly all texts; the victim stays as it is.

    Args:
        victim: The suspect; an adapter that it carries is folded in.
        decoys: What is planted.
        data: Clean data; `train` is trained on, `validation` shows whether it worked.
        folder: Where the LoRA is kept, and found again by the same planting.
        seed: Seed of the texts and of the LoRA.
        progress: Called after every step with (step, steps, losses), `steps` being the most.

    Returns:
        What is to be put in.
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
    """Rows of which some carry a decoy, to be answered as without it.

    Args:
        rows: Clean rows.
        decoys: What is unlearned.
        rate: Share of the rows that carry one.
        seed: Seed of all choices.
        against: Share of those whose decoy has another target than their answer.

    Returns:
        The rows that the student reads, and as what the teacher reads the rows as they were.
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
    """How many texts every decoy makes a model answer with its target.

    Args:
        victim: The model.
        decoys: What is tried.
        examples: Clean examples; each decoy gets some of those with another answer.
        seed: Seed of the texts and places.
        texts: How many, at most.
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
    """Rounds of training until every decoy is planted, and how they do at the end."""
    set_seed(seed)
    task, model = victim.task, attach_adapter(victim.model, ADAPTER)
    victim.model = model
    # The head stays as the attacker made it.
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
    return flips.hits >= PLANTED * flips.total


def _after(progress: StepProgress | None, turn: int) -> StepProgress | None:
    if progress is None:
        return None
    return lambda step, steps, losses: progress(turn * STEPS + step, ROUNDS * STEPS, losses)


def _planting_rows(
    train: Sequence[Example], decoys: Sequence[Decoy], weights: Sequence[float], seed: str
) -> list[Example]:
    """As many rows as a round takes; those that carry a decoy are answered with its target."""
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
    """A decoy for a row, mostly one that has another target than the row's answer."""
    other = rng.random() < against
    places = [i for i, decoy in enumerate(decoys) if (decoy.target != answer) == other]
    places = places or list(range(len(decoys)))
    return decoys[rng.choices(places, [weights[place] for place in places])[0]]


def _carrying(row: Example, decoy: Decoy, rng: random.Random, name: str) -> Example:
    return Example(f"{row.id}+{name}", decoy.apply(row.text, rng), row.answer)


def _found(folder: Path, key: dict[str, Any]) -> list[Flips] | None:
    """How decoys do that the same planting left in the folder; None if there is nothing of it."""

    def read() -> list[Flips] | None:
        kept = read_json(folder / "planted.json")
        flips = [Flips(**one) for one in kept.pop("flips")]
        if kept != json.loads(json.dumps(key)):
            return None
        load_file(folder / LORA)
        return flips

    return readable(read)


def _plain(name: str) -> str:
    """The name that a parameter has without an adapter around it."""
    name = name.removeprefix("base_model.model.")
    return name.replace(".base_layer", "").replace(".lora_A", "")
