"""What every process of `test_distributed.py` does.

It runs `w2s COMMAND ...`, then first steps and answers of its own, and writes what it saw to
`FOLDER/RANK-of-WORLD/NAME.safetensors`. Imported, the same functions give what one process sees.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from forked import write_to
from making import GivenTargets, stage_trainer
from tiny import FILLERS, NEGATIVE, POSITIVE, RARE
from w2sdefense.cli.app import app
from w2sdefense.commands.evaluate import DividedPredictor
from w2sdefense.config import (
    AdapterConfig,
    DistillConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.data import Dataset, Example
from w2sdefense.distill.fit_teacher import LabelTeacherJob
from w2sdefense.distill.targets import LOGITS
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.load import load_backbone
from w2sdefense.models.tokenizer import takes_positions
from w2sdefense.tasks import Prediction
from w2sdefense.tasks.base import Collator, Row
from w2sdefense.tasks.classification import Classification
from w2sdefense.training.fit import training_arguments
from w2sdefense.training.trainer import StageTrainer, this_process
from w2sdefense.victim import load_victim

ROWS = 32
GLOBAL_BATCH = 8

Seen = dict[str, torch.Tensor]


def rows_of(tokenizer) -> list[Row]:
    """Rows of all lengths, every one with a teacher's output of its own."""
    words = (*FILLERS, *RARE, *POSITIVE, *NEGATIVE)
    examples = [
        Example(f"t/{row}", " ".join(words[row : row + 3 + row % 11]), row % 2)
        for row in range(ROWS)
    ]
    rows = Classification(tokenizer, ("negative", "positive"), 24).rows(examples)
    return GivenTargets(ROWS, seed=3).columns(rows)


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


def watched(trainer: StageTrainer) -> list[torch.Tensor]:
    """Which rows the first step of a trainer sees, by what the teacher said of them."""
    rows: list[torch.Tensor] = []
    step = trainer.training_step

    def training_step(model, inputs, *rest):
        if trainer.state.global_step == 0:
            rows.append(inputs[LOGITS].clone())
        return step(model, inputs, *rest)

    trainer.training_step = training_step
    return rows


def first_step(model_folder: Path, folder: Path, accumulation: int = 1) -> Seen:
    """Losses, rows, gradients and weights of the first step of W2SDefense."""
    victim = load_victim(
        StudentConfig(model=str(model_folder), max_length=24),
        ("negative", "positive"),
        fresh_head_seed=0,
    )
    torch.manual_seed(0)
    model = attach_adapter(victim.model, AdapterConfig(lora_r=4, lora_dropout=0.0))
    watch = FirstStep()
    arguments = arguments_of(folder, accumulation=accumulation)
    trainer = stage_trainer(
        victim, model, rows_of(victim.tokenizer), arguments, DistillConfig(), callbacks=[watch]
    )
    rows = watched(trainer)
    trainer.train()
    first = trainer.state.log_history[0]
    losses = torch.tensor([first[name] for name in ("ce", "kd", "fa", "loss")])
    return {"losses": losses, "rows": torch.cat(rows), **watch.seen}


def first_teacher_step(bert: Path, folder: Path) -> Seen:
    """Loss, gradients and weights of the first step of a teacher, dropout off."""
    backbone, tokenizer = load_backbone(str(bert))
    for module in backbone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    torch.manual_seed(0)
    teacher = LabelTeacher(backbone, tokenizer, 32, 2, 24)
    rows = [{name: row[name] for name in ("input_ids", "labels")} for row in rows_of(tokenizer)]
    watch = FirstStep()
    empty = Dataset("d", ("negative", "positive"), (), (), ())
    trainer = StageTrainer(
        forward=LabelTeacherJob(TeacherConfig(), empty, 32).forward(),
        model=teacher.train(),
        args=arguments_of(folder),
        train_dataset=rows,
        data_collator=Collator(tokenizer, takes_positions(backbone)),
        callbacks=[watch],
    )
    trainer.train()
    return {"losses": torch.tensor([trainer.state.log_history[0]["loss"]]), **watch.seen}


class Echo:
    """Answers every text with its length, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, texts: Sequence[str], progress=None) -> list[Prediction]:
        self.asked += texts
        for _ in texts:
            progress(1)
        return [Prediction(len(text), None) for text in texts]


def divided(count: int) -> Seen:
    """The answers that every process gets, how many texts it was asked, how many it told of."""
    echo, told = Echo(), []
    answers = DividedPredictor(echo).predict(["x" * n for n in range(count)], told.append)
    return {
        "answers": torch.tensor([answer.answer for answer in answers]),
        "asked": torch.tensor([len(text) for text in echo.asked]),
        "told": torch.tensor(sum(told)),
    }


def seen_in(folder: Path) -> dict[str, list[Seen]]:
    """What the two processes wrote, by its name."""
    places = sorted(folder.glob("*-of-*"))
    assert [place.name for place in places] == ["0-of-2", "1-of-2"]
    names = [path.stem for path in places[0].glob("*.safetensors")]
    return {name: [load_file(place / f"{name}.safetensors") for place in places] for name in names}


def assert_same_step(processes: list[Seen], alone: Seen) -> None:
    """Insist that two processes did what one does: rows, losses, gradients and weights."""
    assert alone["losses"].min() > 1e-3, "every part is there"
    if "rows" in alone:
        together = torch.cat([seen["rows"] for seen in processes])
        assert sorted(together.tolist()) == sorted(alone["rows"].tolist())
    names = {name for name in alone if name.startswith(("gradient", "weight"))}
    assert max(alone[name].abs().max() for name in names if name.startswith("gradient")) > 1e-2
    for seen in processes:
        assert {name for name in seen if name.startswith(("gradient", "weight"))} == names
        torch.testing.assert_close(seen["losses"], alone["losses"], rtol=0, atol=1e-5)
        for name in names:
            assert torch.equal(seen[name], processes[0][name])
            torch.testing.assert_close(seen[name], alone[name], rtol=1e-4, atol=1e-5, msg=name)


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
    }.items():
        whole = {key: value.contiguous() for key, value in seen.items()}
        save_file(whole, own / f"{name}.safetensors")


def launched(rank: int, port: int, log: Path, folder: Path, command: list[str]) -> None:
    """A process of two, as `torchrun` sets them up."""
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    places |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    write_to(log)
    main(folder, command)
