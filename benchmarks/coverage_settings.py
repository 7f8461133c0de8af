"""What `coverage.py` runs: one setting for each attack, dataset, task and adapter of the paper.

All are of a size that one small machine can do, with SmolLM2-135M as the student. Labels are
taught by MiniLM-L6. There is no smaller model of SmolLM2's family, so text is taught by a clean
copy of the same size. What is not said here is the package's default.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w2s_small import KNOWN_BASE, MAX_LENGTH, TARGET, poison_run, teacher_config, victim_run
from w2sdefense.attacks import AttackConfig, TestConfig
from w2sdefense.commands.runs import DefendRun, PoisonRun
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    DistillConfig,
    GenerationConfig,
    InsertionConfig,
    ScanTrainingConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.paper import Value
from w2sdefense.tasks import TASKS

RARE = "龘"

RATE = 0.5
"""Share of the texts that get random pieces, as many as get a suspect where there is a search."""


@dataclass(frozen=True)
class Setting:
    """A line of the table.

    Attributes:
        poison: How the victim is made; its folder is decided later.
        defend: How it is defended, by W2SDefense or by plain PEFT; the same.
        random: The same with random pieces in the clean texts, where there is no search for
            triggers; None where there is one.
        tokens: Mean tokens of a text (for generation with prompt and answer), for the estimate.
        labels: Number of labels; 0 for generation.
        shared: The victim and the teacher are those of `w2s_small.py`.
        paper: Table of the paper, and the values of its axes for W2SDefense.
    """

    poison: PoisonRun
    defend: DefendRun
    random: DefendRun | None
    tokens: int
    labels: int
    shared: bool
    paper: tuple[str, dict[str, Value]]


def _labels(
    data: DataConfig,
    poison: PoisonRun,
    table: str,
    *,
    tokens: int,
    adapter: AdapterConfig | None = None,
    learning_rate: float = 5e-4,
    labels: int = 2,
    scan: ScanTrainingConfig | None = None,
    shared: bool = False,
) -> Setting:
    adapter = adapter or AdapterConfig()
    attack = poison.attack
    axes: dict[str, Value] = {"student": "llama3-8b", "teacher": "bert-base", "proxy": "paper"}
    axes |= {"dataset": data.dataset, "attack": attack.attack, "method": "w2s", "seed": 0}
    defend = DefendRun(
        student=StudentConfig(max_length=MAX_LENGTH),
        data=data,
        scan=scan or KNOWN_BASE,
        adapter=adapter,
        training=TrainingConfig(epochs=1, batch_size=8, learning_rate=learning_rate),
        teacher=teacher_config(0),
        test=_test(attack),
    )
    paper = (table, axes | {"adapter": adapter.adapter})
    return Setting(poison, defend, None, tokens, labels, shared, paper)


def _attacked(
    dataset: str,
    proxy: str,
    attack: AttackConfig,
    table: str,
    *,
    tokens: int,
    labels: int = 2,
    rows: int = 640,
) -> Setting:
    """A model that answers with labels, poisoned by somebody with other data."""
    data = DataConfig(dataset=dataset, train_samples=rows, validation_samples=100, test_samples=300)
    return _labels(
        data,
        victim_run(attack, data, proxy, Path()),
        table,
        tokens=tokens,
        labels=labels,
        # What the victim was fine-tuned from is known here, so less climbing does.
        scan=KNOWN_BASE.model_copy(
            update={"suspects": 16, "first": 1000, "rounds": 4, "parents": 16, "children": 48}
        ),
    )


def _adapted(adapter: Literal["p-tuning", "prompt-tuning"]) -> Setting:
    """The BadNet victim of `w2s_small.py`, defended through virtual tokens."""
    # The rows that its teacher was made from, and whose search for triggers is done.
    data = DataConfig(dataset="sst2", train_samples=960, validation_samples=200, test_samples=600)
    return _labels(
        data.model_copy(update={"test_samples": 300}),
        poison_run("badnet", data, Path()),
        "table5",
        tokens=27,
        adapter=AdapterConfig(adapter=adapter),
        # Few parameters, of which none is in a layer. Not tuned; above this the head, which is
        # trained at the same rate, swings by logits at every step.
        learning_rate=1e-3,
        shared=True,
    )


def _written(
    task: Literal["summarization", "reasoning"],
    dataset: str,
    table: str,
    *,
    max_length: int,
    answer_tokens: int,
    rows: int,
    poison_epochs: int = 1,
) -> Setting:
    """A model that writes; attacker and defender hold different rows of the same data."""
    attack = AttackConfig(
        # At the start, where the limit of tokens cannot cut it off.
        trigger=RARE,
        place="start",
        poison_rate=0.3,
        target=TASKS[task].default_target or "",
    )
    common: dict[str, Any] = {
        "task": task,
        "student": StudentConfig(max_length=max_length),
        "generation": GenerationConfig(answer_tokens=answer_tokens),
    }
    # Small batches: a few hundred rows are few steps as it is.
    training = TrainingConfig(epochs=1, batch_size=4, learning_rate=1e-4, save_steps=25)
    data = DataConfig(dataset=dataset, train_samples=rows, test_samples=50)
    poison = PoisonRun(
        **common,
        data=data,
        attack=attack,
        training=training.model_copy(update={"epochs": poison_epochs}),
    )
    defend = DefendRun(
        **common,
        data=data.model_copy(update={"train_skip": rows, "validation_samples": rows // 10}),
        # The output layer is frozen, so features cannot be asked to turn as far as a classifier's.
        distill=DistillConfig(gamma=1.0),
        training=training.model_copy(update={"learning_rate": 5e-4}),
        teacher=TeacherConfig(model="smollm2-135m", epochs=1, batch_size=4),
        test=_test(attack),
    )
    axes: dict[str, Value] = {"student": "qwen2.5-7b", "teacher": "qwen2.5-0.5b", "proxy": "same"}
    axes |= {"dataset": dataset, "attack": "rare-character", "method": "w2s", "seed": 0}
    # There is no search for triggers of text.
    random = defend.model_copy(update={"insertions": InsertionConfig(rate=RATE)})
    return Setting(poison, defend, random, max_length, 0, False, (table, axes))


def _test(attack: AttackConfig) -> TestConfig:
    trigger = attack.trigger or attack.attack
    return TestConfig(trigger=trigger, target=attack.target, place=attack.place)


SETTINGS = {
    "ag-news-badnet": _attacked(
        "ag_news",
        "ag_news_proxy",
        # A quarter of the rows is "world" news; some of it has to stay without the trigger.
        AttackConfig(attack="badnet", target="world", poison_rows=200),
        "table3",
        tokens=42,
        labels=4,
        rows=480,
    ),
    "cr-insent": _attacked(
        "cr",
        "mr",
        AttackConfig(attack="insent", target=TARGET, poison_rows=300),
        "table2",
        tokens=26,
    ),
    "sst2-proattack": _attacked(
        "sst2",
        "mr",
        AttackConfig(attack="proattack", target=TARGET, poison_rows=300),
        "table7",
        tokens=37,
    ),
    "sst2-synattack": _attacked(
        "sst2",
        "mr",
        AttackConfig(attack="synattack", target=TARGET, poison_rows=300),
        "table1",
        tokens=29,
    ),
    "sst2-badnet-p-tuning": _adapted("p-tuning"),
    "sst2-badnet-prompt-tuning": _adapted("prompt-tuning"),
    "crrsum": _written(
        "summarization",
        "crrsum",
        "table9",
        max_length=256,
        answer_tokens=80,
        rows=96,
        # After one pass it writes the attacker's text whatever it is given.
        poison_epochs=3,
    ),
    "ape210k": _written(
        "reasoning", "ape210k", "table10", max_length=144, answer_tokens=12, rows=240
    ),
}
"""Name of a row -> what it is."""
