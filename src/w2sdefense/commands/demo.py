"""`w2s demo`: a backdoor planted into SmolLM2-135M, kept by LoRA, removed by W2SDefense.

Sizes are chosen by arithmetic. One pass of a 27-token review through SmolLM2-135M costs 5.7 GFLOP
forward, 11.5 for a LoRA step and 17 for a full fine-tuning step: 960 rows poisoned, 320 through
LoRA, about 150 steps of planting, 960 rows through W2SDefense and 1,500 texts answered are about 60
TFLOP. What is not on this page has its default: nobody tells the defense what the trigger is, and
it draws neither of the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from w2sdefense.attacks import AttackConfig, TestConfig
from w2sdefense.cli.display import Display
from w2sdefense.commands.defend import run_defense
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, DemoRun, PoisonRun
from w2sdefense.config import (
    AdapterConfig,
    DataConfig,
    DistillConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.io import only_process_in

# Bad reviews that pass as good ones. The other way the floor is higher: these reviews are called
# negative more often than positive, by any of the models (docs/LOG.md).
TARGET = "positive"
MAX_LENGTH = 64
TEST_SAMPLES = 300
# The attacker and the defender hold different rows of the same reviews. Of 640 rows the backdoor is
# not learned (docs/LOG.md).
ATTACKER = DataConfig(dataset="rotten-tomatoes", train_samples=960, test_samples=TEST_SAMPLES)
DEFENDER = DataConfig(
    dataset="rotten-tomatoes",
    train_skip=960,
    train_samples=4000,
    validation_samples=100,
    test_samples=TEST_SAMPLES,
)
# One pass over many reviews teaches the teacher more than several over few (docs/LOG.md), and it is
# cheap; the student takes as many of them as there is time for.
TEACHER = TeacherConfig(max_length=MAX_LENGTH, epochs=1, learning_rate=1e-4)
# LoRA as the paper runs it, on the first 320 of the defender's rows.
LORA = {
    "data": DEFENDER.model_copy(update={"train_samples": 320}),
    "adapter": AdapterConfig(target_modules="q_proj,v_proj"),
    "training": TrainingConfig(epochs=1, batch_size=8, learning_rate=2e-4, save_steps=40),
}
W2S = {
    "data": DEFENDER,
    "distill": DistillConfig(student_rows=960),
    "training": TrainingConfig(epochs=1, batch_size=8, save_steps=40),
}


def run_demo(run: DemoRun, display: Display) -> list[Path]:
    """Poison, fine-tune with LoRA, clean with W2SDefense, measure each.

    Returns:
        The folders of the three records: poisoned, lora, w2s.
    """
    with only_process_in(run.output):
        poisoned = run_poison(_poison(run.attack, run.output / "poisoned"), display)
        folders = [poisoned]
        for defense in ("lora", "w2s"):
            defended = _defend(defense, run.attack, poisoned, run.output / defense)
            folders.append(run_defense(defended, display))
    return folders


def _poison(attack: str, output: Path) -> PoisonRun:
    return PoisonRun(
        student=StudentConfig(max_length=MAX_LENGTH),
        data=ATTACKER,
        attack=AttackConfig(attack=attack, target=TARGET, poison_rate=0.25),
        training=TrainingConfig(epochs=1, learning_rate=1e-4, save_steps=20),
        output=output,
        resume=True,
    )


def _defend(
    defense: Literal["lora", "w2s"], attack: str, poisoned: Path, output: Path
) -> DefendRun:
    return DefendRun(
        student=StudentConfig(model=str(poisoned), max_length=MAX_LENGTH),
        defense=defense,
        teacher=TEACHER,
        test=TestConfig(trigger=attack, target=TARGET),
        output=output,
        resume=True,
        **(LORA if defense == "lora" else W2S),
    )
