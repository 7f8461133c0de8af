"""`w2s demo`: a backdoor planted into SmolLM2-135M, kept by LoRA, removed by W2SDefense.

Sizes are chosen by arithmetic. One pass of a 27-token review through SmolLM2-135M costs 5.7 GFLOP
forward, 11.5 for a LoRA step and 17 for a full fine-tuning step: 960 rows poisoned, 640 through
LoRA, 1,440 through W2SDefense, 1,500 texts answered and a search for what fires the backdoor are
about 80 TFLOP; planting decoys comes on top.
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
    ScanTrainingConfig,
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
# The attacker and the defender hold different rows of the same reviews.
ATTACKER = DataConfig(dataset="rotten-tomatoes", train_samples=960, test_samples=TEST_SAMPLES)
DEFENDER = DataConfig(
    dataset="rotten-tomatoes",
    train_skip=960,
    train_samples=5500,
    validation_samples=100,
    test_samples=TEST_SAMPLES,
)
# One pass over many reviews teaches the teacher more than several over few (docs/LOG.md), and it is
# cheap; the student takes as many of them as there is time for.
TEACHER = TeacherConfig(max_length=MAX_LENGTH, epochs=1, learning_rate=1e-4)
# The defender knows what the model was fine-tuned from, so less climbing does; the whole list would
# take half of the demonstration's time.
SCAN = ScanTrainingConfig(
    fine_tuned_from="smollm2-135m",
    kinds=("letters",),
    kept=16,
    rounds=4,
    survivors=16,
    mutations=48,
)
# LoRA as the paper runs it, on the first 640 of the defender's rows, after which it has learned the
# reviews. The benchmark gives it the rate, the modules and the steps of W2SDefense.
LORA = {
    "data": DEFENDER.model_copy(update={"train_samples": 640}),
    "adapter": AdapterConfig(target_modules="q_proj,v_proj"),
    "training": TrainingConfig(epochs=1, batch_size=8, learning_rate=2e-4, save_steps=50),
}
W2S = {
    "data": DEFENDER,
    "distill": DistillConfig(student_rows=1440),
    "scan": SCAN,
    "training": TrainingConfig(epochs=1, batch_size=8, save_steps=50),
}


def run_demo(run: DemoRun, display: Display) -> list[Path]:
    """Poison, fine-tune with LoRA, clean with W2SDefense, measure each.

    Returns:
        The folders of the three records: poisoned, lora, w2s.
    """
    with only_process_in(run.output):
        poisoned = run_poison(_poison(run.output / "poisoned"), display)
        folders = [poisoned]
        for defense in ("lora", "w2s"):
            folders.append(run_defense(_defend(defense, poisoned, run.output / defense), display))
    return folders


def _poison(output: Path) -> PoisonRun:
    return PoisonRun(
        student=StudentConfig(max_length=MAX_LENGTH),
        data=ATTACKER,
        attack=AttackConfig(attack="badnet", target=TARGET, poison_rate=0.25),
        training=TrainingConfig(epochs=1, learning_rate=1e-4, save_steps=20),
        output=output,
        resume=True,
    )


def _defend(defense: Literal["lora", "w2s"], poisoned: Path, output: Path) -> DefendRun:
    return DefendRun(
        student=StudentConfig(model=str(poisoned), max_length=MAX_LENGTH),
        defense=defense,
        teacher=TEACHER,
        test=TestConfig(trigger="badnet", target=TARGET),
        output=output,
        resume=True,
        **(LORA if defense == "lora" else W2S),
    )
