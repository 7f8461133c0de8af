"""What every process of `test_distributed.py` does.

    torchrun --nproc-per-node 2 distributed_worker.py FOLDER COMMAND ...

It runs `w2s COMMAND ...`, then first steps and answers of its own, and writes what it saw to
`FOLDER/RANK-of-WORLD/NAME.safetensors`. Imported, the same functions give what one process sees.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import TrainerCallback

from tiny import FILLERS, NEGATIVE, POSITIVE, RARE
from w2sdefense.cli.app import app
from w2sdefense.commands.processes import DividedPredictor
from w2sdefense.config import (
    AdapterConfig,
    DistillConfig,
    SoftTriggerConfig,
    StudentConfig,
    TrainingConfig,
)
from w2sdefense.data.types import Example
from w2sdefense.distill.targets import TeacherTargets
from w2sdefense.distill.teacher import Teacher
from w2sdefense.distill.trainer import TEACHER_LOGITS, W2STrainer, with_targets
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.load import load_backbone
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.predictor import Prediction
from w2sdefense.training.batches import Collator, Row, tokenize
from w2sdefense.training.trainer import LengthTrainer, run, this_process, training_arguments
from w2sdefense.victim import new_victim

ROWS = 32
GLOBAL_BATCH = 8
SOFT = SoftTriggerConfig(per_label=2, rate=0.6, restart=3, step=0.3)
"""The rate leaves rows without one, so that processes draw different amounts of random numbers."""

Seen = dict[str, torch.Tensor]


def rows_of(tokenizer) -> list[Row]:
    """Rows of all lengths, every one with a teacher's output of its own."""
    words = (*FILLERS, *RARE, *POSITIVE, *NEGATIVE)
    examples = [
        Example(f"t/{row}", " ".join(words[row : row + 3 + row % 11]), row % 2)
        for row in range(ROWS)
    ]
    generator = torch.Generator().manual_seed(3)
    targets = TeacherTargets(
        torch.randn(ROWS, 2, generator=generator), torch.randn(ROWS, 32, generator=generator)
    )
    return with_targets(tokenize(examples, tokenizer, 24), targets)


def arguments_of(folder: Path, *, accumulation: int = 1, epochs: int = 1):
    """The same rows in a step, however many processes there are."""
    share = GLOBAL_BATCH // accumulation // this_process().num_processes
    settings = TrainingConfig(
        epochs=epochs,
        batch_size=share,
        learning_rate=1e-2,
        warmup_ratio=0.0,
        gradient_accumulation=accumulation,
    )
    arguments = training_arguments(settings, folder / "trainer", keep="last")
    arguments.logging_steps = 1
    arguments.max_grad_norm = 0.0  # clipping would hide a wrong scale, as Adam does
    return arguments


class FirstStep(TrainerCallback):
    """Keeps the gradients of the first step and the weights after it."""

    def __init__(self) -> None:
        self.seen: Seen = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **rest):
        if state.global_step == 0:
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    self.seen[f"gradient {plain(name)}"] = weight.grad.clone()

    def on_step_end(self, args, state, control, model=None, **rest):
        if state.global_step == 1:
            for name, weight in model.named_parameters():
                if weight.requires_grad:
                    self.seen[f"weight {plain(name)}"] = weight.detach().clone()


def plain(name: str) -> str:
    return name.removeprefix("module.")


class Watched(W2STrainer):
    """A W2STrainer that keeps which rows its first step saw, by what the teacher said of them."""

    def __init__(self, **rest) -> None:
        super().__init__(**rest)
        self.rows: list[torch.Tensor] = []

    def training_step(self, model, inputs, *rest):
        if self.state.global_step == 0:
            self.rows.append(inputs[TEACHER_LOGITS].clone())
        return super().training_step(model, inputs, *rest)


def first_step(model_folder: Path, folder: Path, accumulation: int = 1) -> Seen:
    """Losses, rows, gradients and weights of the first step of W2SDefense."""
    victim = new_victim(
        StudentConfig(model=str(model_folder), max_length=24), ("negative", "positive"), seed=0
    )
    torch.manual_seed(0)
    model = attach_adapter(victim.model, AdapterConfig(lora_r=4, lora_dropout=0.0))
    watch = FirstStep()
    trainer = Watched(
        distill=DistillConfig(alpha=1.0, beta=0.7, gamma=3.0),
        model=model.train(),
        args=arguments_of(folder, accumulation=accumulation),
        train_dataset=rows_of(victim.tokenizer),
        data_collator=Collator(victim.tokenizer, takes_positions(model)),
        callbacks=[watch],
    )
    first = run(trainer, resume=False)[0]
    losses = torch.tensor([first[name] for name in ("ce", "kd", "fa", "loss")])
    return {"losses": losses, "rows": torch.cat(trainer.rows), **watch.seen}


def first_teacher_step(bert: Path, folder: Path) -> Seen:
    """Loss, gradients and weights of the first step of a teacher, dropout off."""
    backbone, tokenizer = load_backbone(str(bert))
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    teacher = Teacher(backbone, tokenizer, 32, 2, 24)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in rows_of(tokenizer)]
    watch = FirstStep()
    trainer = LengthTrainer(
        model=teacher.train(),
        args=arguments_of(folder),
        train_dataset=rows,
        data_collator=Collator(tokenizer, takes_positions(backbone)),
        callbacks=[watch],
    )
    return {"losses": torch.tensor([run(trainer, resume=False)[0]["loss"]]), **watch.seen}


def soft_triggers(model_folder: Path, folder: Path) -> Seen:
    """Which soft trigger every step took, its gradients in this process, and the banks."""
    victim = new_victim(
        StudentConfig(model=str(model_folder), max_length=24), ("negative", "positive"), seed=0
    )
    torch.manual_seed(0)
    model = attach_adapter(victim.model, AdapterConfig(lora_r=4))
    trainer = W2STrainer(
        distill=DistillConfig(),
        soft=SOFT,
        model=model.train(),
        args=arguments_of(folder, epochs=3),
        train_dataset=rows_of(victim.tokenizer),
        data_collator=Collator(victim.tokenizer, takes_positions(model)),
    )
    soft = trainer._soft
    taken, own, given, banks = [], [], [], []
    insert, ascend = soft.insert, soft.ascend

    def inserting(*batch):
        triggered = insert(*batch)
        taken.append(triggered.index)
        triggered.trigger.register_hook(lambda gradient: own.append(gradient.clone()))
        return triggered

    def ascending(index, gradient):
        given.append(gradient.clone())
        ascend(index, gradient)
        banks.append(soft.state_dict()["bank"].clone())

    soft.insert, soft.ascend = inserting, ascending
    run(trainer, resume=False)
    return {
        "taken": torch.tensor(taken),
        "own gradients": torch.stack(own),
        "given gradients": torch.stack(given),
        "banks": torch.stack(banks),
        "random": torch.rand(4),
    }


class Echo:
    """Answers every text with its length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, texts: Sequence[str], progress=None) -> list[Prediction]:
        self.asked += texts
        for _ in texts:
            progress(1)
        return [Prediction(len(text), (1.0,), torch.tensor([0.5]), None) for text in texts]


def divided(count: int) -> Seen:
    """The answers that every process gets, how many texts it was asked, how many it told of."""
    echo, told = Echo(), []
    answers = DividedPredictor(echo).predict(["x" * n for n in range(count)], told.append)
    return {
        "answers": torch.tensor([answer.label for answer in answers]),
        "asked": torch.tensor([len(text) for text in echo.asked]),
        "told": torch.tensor(sum(told)),
    }


def main(folder: Path, command: list[str]) -> None:
    app(command, standalone_mode=False)
    state = this_process()
    if torch.distributed.get_world_size() != 2 or state.num_processes != 2:
        raise RuntimeError(f"{state.num_processes} processes where 2 were started")
    own = folder / f"{state.process_index}-of-{torch.distributed.get_world_size()}"
    own.mkdir()
    for name, seen in {
        "divided-7": divided(7),
        "divided-1": divided(1),
        "first": first_step(folder / "llama", folder / "first"),
        "accumulated": first_step(folder / "llama", folder / "accumulated", accumulation=2),
        "teacher": first_teacher_step(folder / "bert", folder / "teacher"),
        "soft": soft_triggers(folder / "llama", folder / "soft"),
    }.items():
        save_file({key: value.contiguous() for key, value in seen.items()}, own / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
