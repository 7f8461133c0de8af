"""Checkpoints: which one is kept, which one is gone on from, and whose are removed."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from w2sdefense.config import TrainingConfig
from w2sdefense.tasks import Output
from w2sdefense.training.fit import (
    fit,
    last_whole_checkpoint,
    remove_checkpoints,
    training_arguments,
)
from w2sdefense.training.trainer import StageTrainer


class Counter(nn.Module):
    """One weight that grows by about one with every step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))


def count(folder, losses, *, resume=False) -> StageTrainer:
    """Two steps an epoch; the validation loss of each epoch is given."""
    config = TrainingConfig(
        epochs=len(losses), batch_size=2, learning_rate=1.0, warmup_ratio=0.0, weight_decay=0.0
    )
    given = iter(losses)

    def read(model, batch):
        logits = model.weight.expand(len(batch["labels"]), 1)
        return Output(logits, logits, batch["labels"], logits)

    def loss(output, batch):
        training = torch.is_grad_enabled()
        return (-output.logits.sum() / 2 if training else torch.tensor(next(given))), {}

    def collate(rows):
        return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}

    # The accuracy of the epochs is the same; the choice does not go by it.
    rows = [{"input_ids": [i], "labels": 0} for i in range(4)]
    return fit(
        Counter(),
        collate,
        read,
        rows,
        rows[:2],
        training=config,
        folder=folder,
        loss=loss,
        resume=resume,
    )


def test_the_epoch_with_the_lowest_loss_is_kept(tmp_path):
    trainer = count(tmp_path, [0.5, 0.2, 0.3, 0.4])
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-4")
    assert abs(trainer.state.best_metric - 0.2) < 1e-6
    # And its weights, not those of the end: rates 1, 7/8, 6/8, 5/8 after four of eight steps.
    torch.testing.assert_close(trainer.model.weight.data, torch.tensor([3.25]), rtol=0, atol=1e-3)


def test_the_largest_warm_up_is_a_share_of_the_steps(tmp_path):
    for ratio, steps in ((0.0, 0), (0.5, 50), (0.99, 99)):
        arguments = training_arguments(TrainingConfig(warmup_ratio=ratio), tmp_path, keep="last")
        assert arguments.get_warmup_steps(100) == steps
    # One would be a single step.
    with pytest.raises(ValidationError, match="warmup_ratio"):
        TrainingConfig(warmup_ratio=1.0)


def test_a_checkpoint_that_was_cut_off_is_passed_over(tmp_path):
    assert last_whole_checkpoint(tmp_path) is None
    for step, state in ((5, "{}"), (10, "{}"), (15, '{"epoch": '), (20, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "model.safetensors").touch()
        if state is not None:
            (folder / "trainer_state.json").write_text(state)
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_the_checkpoints_of_others_are_left_alone(tmp_path):
    theirs = tmp_path / "checkpoint-500"
    theirs.mkdir()
    (theirs / "trainer_state.json").write_text("{}")
    count(tmp_path, [0.5], resume=True)
    assert (tmp_path / "training" / "checkpoint-2").is_dir()
    remove_checkpoints(tmp_path)
    assert theirs.is_dir()
    assert not (tmp_path / "training").exists()
