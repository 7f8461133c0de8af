"""What a step must not pay for again and again."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from w2sdefense import training as module
from w2sdefense.config import DistillConfig, TrainingConfig
from w2sdefense.distill.trainer import W2STrainer
from w2sdefense.training.trainer import training_arguments

pytestmark = pytest.mark.slow


def collate(rows):
    return {
        "input_ids": torch.tensor([row["input_ids"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
        "teacher_logits": torch.zeros(len(rows), 2),
        "teacher_feature": torch.ones(len(rows), 8),
    }


@pytest.mark.filterwarnings("ignore")
def test_one_tap_serves_all_steps(monkeypatch, tmp_path):
    made = []

    class Counted(module.FeatureTap):
        def __init__(self, model):
            made.append(model)
            super().__init__(model)

    monkeypatch.setattr(module, "FeatureTap", Counted)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        pad_token_id=0,
    )
    trainer = W2STrainer(
        distill=DistillConfig(),
        model=LlamaForSequenceClassification(config),
        args=training_arguments(TrainingConfig(epochs=2, batch_size=2), tmp_path, keep="last"),
        train_dataset=[{"input_ids": [3, 4, 5], "labels": row % 2} for row in range(8)],
        data_collator=collate,
    )
    trainer.train()
    assert trainer.state.global_step == 8
    assert len(made) == 1
    assert not made[0].model._forward_hooks
