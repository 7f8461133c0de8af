"""Batches of similar length: every row once, little padding, the same order for the same seed."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForSequenceClassification, TrainerControl, TrainerState
from transformers.trainer_pt_utils import get_length_grouped_indices

from tiny import LLAMA
from w2sdefense.config import TrainingConfig
from w2sdefense.tasks import Output
from w2sdefense.training.fit import CHECKPOINTS, training_arguments
from w2sdefense.training.trainer import EpochOfOrder, SimilarLengths, StageTrainer


def padding(order: list[int], lengths: list[int], batch_size: int) -> float:
    """Share of the tokens of padded batches that are padding."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    total = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)
    return 1 - sum(lengths) / total


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=70),
    batch_size=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_an_epoch_holds_every_row_once(lengths, batch_size, epoch):
    sampler = SimilarLengths(lengths, batch_size, seed=0)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(lengths)
    assert sorted(sampler) == list(range(len(lengths)))


def test_it_pads_less_than_half_of_what_the_trainers_own_order_does():
    draw = random.Random(0)
    lengths = [min(128, int(draw.lognormvariate(3.2, 0.5)) + 2) for _ in range(500)]
    ours = padding(list(SimilarLengths(lengths, 16, seed=0)), lengths, 16)
    theirs = padding(get_length_grouped_indices(lengths, 16), lengths, 16)
    assert ours < 0.5 * theirs
    assert ours < 0.1


def test_the_order_follows_seed_and_epoch():
    lengths = [1 + row % 30 for row in range(100)]
    sampler = SimilarLengths(lengths, 8, seed=3)
    first = list(sampler)
    assert list(sampler) == first == list(SimilarLengths(lengths, 8, seed=3))
    assert list(SimilarLengths(lengths, 8, seed=4)) != first
    sampler.set_epoch(1)
    second = list(sampler)
    assert second != first
    batches = [{frozenset(o[i : i + 8]) for i in range(0, 96, 8)} for o in (first, second)]
    assert len(batches[0] & batches[1]) < 6


def test_the_longest_batch_comes_first_in_the_first_epoch():
    lengths = list(range(1, 101))
    assert min(lengths[row] for row in list(SimilarLengths(lengths, 10, seed=0))[:10]) > 80


def trainer(folder, epochs: int = 2, steps: int = -1) -> tuple[StageTrainer, list[list[int]]]:
    """A trainer of a tiny model, and the list that its batches are written to."""
    config = LlamaConfig(**LLAMA.to_dict() | {"pad_token_id": 0})
    seen: list[list[int]] = []

    def collate(rows):
        seen.append([row["input_ids"][0] for row in rows])
        ids = [row["input_ids"] for row in rows]
        width = max(map(len, ids))
        return {
            "input_ids": torch.tensor([[0] * (width - len(i)) + i for i in ids]),
            "attention_mask": torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids]),
            "labels": torch.tensor([row["labels"] for row in rows]),
        }

    def read(model, batch):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits = model(**inputs).logits
        return Output(logits, logits, batch["labels"], logits)

    settings = TrainingConfig(epochs=epochs, batch_size=4, save_steps=3)
    arguments = training_arguments(settings, folder, keep="last")
    arguments.max_steps = steps
    rows = [{"input_ids": [row] * (1 + row % 7), "labels": row % 2} for row in range(1, 27)]
    return (
        StageTrainer(
            forward=read,
            model=LlamaForSequenceClassification(config),
            args=arguments,
            train_dataset=rows,
            data_collator=collate,
        ),
        seen,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_sees_the_batches_that_the_whole_run_would_have_seen(tmp_path):
    whole, wanted = trainer(tmp_path / "whole")
    whole.train()
    assert len(wanted) == 14
    assert wanted[:7] != wanted[7:]
    # Cut off in the middle of the second epoch; the Trainer passes over what was done before.
    started, _ = trainer(tmp_path / "cut", steps=9)
    started.train()
    resumed, seen = trainer(tmp_path / "cut")
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / CHECKPOINTS / "checkpoint-9"))
    assert seen[-5:] == wanted[9:]


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_keeps_the_epoch_of_its_order(tmp_path):
    made, _ = trainer(tmp_path)
    order = made._get_train_sampler()
    again = SimilarLengths([1 + row % 7 for row in range(1, 27)], 4, seed=made.args.seed)
    again.set_epoch(1)
    made.state.epoch = 1.25
    made.callback_handler.on_epoch_begin(made.args, made.state, made.control)
    assert list(order) == list(again)


def test_the_order_is_that_of_the_epoch_a_run_goes_on_in():
    """Of several processes: accelerate does not find the order behind its own batches."""
    lengths = list(range(64))
    second = SimilarLengths(lengths, 8, seed=0)
    second.set_epoch(1)
    resumed = SimilarLengths(lengths, 8, seed=0)
    EpochOfOrder(resumed).on_epoch_begin(None, TrainerState(epoch=1.25), TrainerControl())
    assert list(resumed) == list(second) != list(SimilarLengths(lengths, 8, seed=0))
