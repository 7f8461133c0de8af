"""What a step must not pay for again and again."""

import pytest
from transformers import LlamaForSequenceClassification

from making import as_victim, stage_trainer
from tiny import LLAMA, word_tokenizer
from w2sdefense.config import TrainingConfig
from w2sdefense.models import features
from w2sdefense.training.fit import training_arguments

pytestmark = pytest.mark.slow


def test_the_position_that_is_read_is_found_out_once(monkeypatch, tmp_path):
    asked = []
    reads = features.reads_last_token
    monkeypatch.setattr(features, "reads_last_token", lambda c: asked.append(c) or reads(c))
    tokenizer = word_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    model = LlamaForSequenceClassification(LLAMA)
    model.config.pad_token_id = tokenizer.pad_token_id
    rows = [{"input_ids": [6, 7, 8], "labels": row % 2} for row in range(8)]
    arguments = training_arguments(TrainingConfig(epochs=2, batch_size=2), tmp_path, keep="last")
    trainer = stage_trainer(as_victim(model, tokenizer), model, rows, arguments)
    trainer.train()
    assert trainer.state.global_step == 8
    assert len(asked) == 1
    assert not model.model._forward_hooks
