"""`w2s demo`: plants a backdoor in SmolLM2-135M, which LoRA keeps and W2SDefense removes.

The sizes come from an estimate of the work. For a 27-token review, SmolLM2-135M needs 5.7 GFLOP for
a forward pass, 11.5 for a LoRA step and 17 for a full fine-tuning step. 960 poisoned rows, 320 rows
with LoRA, about 150 steps of planting, 960 rows with W2SDefense and 1,500 answered texts need about
60 TFLOP. All other settings have their defaults. The defense does not know the trigger, and its
decoys are neither of the two triggers of the demo.
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

# The backdoor makes bad reviews pass as good ones. In the other direction the floor is higher,
# because all of these models answer "negative" more often than "positive" (docs/LOG.md).
TARGET = "positive"
MAX_LENGTH = 64
TEST_SAMPLES = 300
# Attacker and defender have different rows of the same dataset. 640 rows are too few to learn the
# backdoor (docs/LOG.md).
ATTACKER = DataConfig(dataset="rotten-tomatoes", train_samples=960, test_samples=TEST_SAMPLES)
DEFENDER = DataConfig(
    dataset="rotten-tomatoes",
    train_skip=960,
    train_samples=4000,
    validation_samples=100,
    test_samples=TEST_SAMPLES,
)
# For the teacher, one cheap epoch of many reviews is better than several of few (docs/LOG.md). The
# student uses as many of them as there is time for.
TEACHER = TeacherConfig(max_length=MAX_LENGTH, epochs=1, learning_rate=1e-4)
# LoRA with the paper's modules and learning rate, on the first 320 of the defender's rows.
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
