"""Texts that are longer than a model has positions are refused, and only those."""

import pytest
import torch
from transformers import (
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTModel,
    RobertaConfig,
    RobertaModel,
)

from making import as_victim, lessons
from tiny import BERT, LLAMA, SIZES, save_bert, word_tokenizer
from w2sdefense.config import AdapterConfig, StudentConfig, TrainingConfig
from w2sdefense.data import Dataset, Example
from w2sdefense.distill.student import train_student
from w2sdefense.errors import ConfigError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.tokenizer import check_length, position_limit
from w2sdefense.victim import fine_tune, load_victim

ROBERTA = RobertaConfig(**SIZES | {"max_position_embeddings": 66}, pad_token_id=1)
OPT = OPTConfig(
    vocab_size=70,
    hidden_size=32,
    word_embed_proj_dim=32,
    num_hidden_layers=1,
    num_attention_heads=4,
    ffn_dim=64,
    max_position_embeddings=64,
    pad_token_id=1,
)
GPT2 = GPT2Config(vocab_size=70, n_positions=64, n_embd=32, n_layer=1, n_head=4)


@pytest.mark.parametrize(
    "model",
    [
        (BertForSequenceClassification, BERT),
        (RobertaModel, ROBERTA),
        (OPTModel, OPT),
        (GPT2LMHeadModel, GPT2),
    ],
    ids=["bert", "roberta", "opt", "gpt2"],
)
def test_the_limit_is_where_the_model_ends(model):
    kind, config = model
    model = kind(config).eval()
    assert position_limit(model) == 64
    ids = torch.full((1, 65), 7)
    with torch.inference_mode():
        model(input_ids=ids[:, :64], attention_mask=torch.ones(1, 64, dtype=torch.long))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_rotary_positions_have_no_limit():
    model = LlamaForSequenceClassification(LLAMA)
    assert position_limit(model) is None
    check_length(model, 10_000)


def test_virtual_tokens_take_positions():
    tokens = AdapterConfig(adapter="prompt-tuning", virtual_tokens=5)
    model = attach_adapter(BertForSequenceClassification(BERT), tokens)
    check_length(model, 59)
    with pytest.raises(ConfigError, match="64 tokens, too few for a text of 60 and 5") as caught:
        check_length(model, 60)
    assert "--max-length 59 " in caught.value.fix
    with pytest.raises(ConfigError) as caught:
        check_length(model, 60, beside=60)
    assert "--virtual-tokens" in caught.value.fix


def test_texts_are_cut_where_the_positions_of_a_model_end(tmp_path):
    model = str(save_bert(tmp_path / "bert"))
    names = ("negative", "positive")
    for asked, longest in ((32, 32), (64, 64), (1024, 64)):
        victim = load_victim(StudentConfig(model=model, max_length=asked), names, fresh_head_seed=0)
        assert victim.max_length == longest
    assert len(victim.predict(["film " * 100])) == 1


def test_a_row_that_is_too_long_is_refused_before_the_first_step(tmp_path):
    victim = as_victim(BertForSequenceClassification(BERT), word_tokenizer(encoder=True))
    rows = [Example("a", "great film", 1), Example("b", "film " * 100, 0)]
    with pytest.raises(ConfigError, match="a text of 102"):
        fine_tune(victim, rows, TrainingConfig(epochs=1), tmp_path)


def test_a_student_has_room_for_its_virtual_tokens_whatever_its_rows_are(tmp_path):
    """A test text may be longer than all that it is trained on."""
    names = ("negative", "positive")
    tokenizer = word_tokenizer(encoder=True)
    victim = as_victim(BertForSequenceClassification(BERT), tokenizer, names, 64)
    rows = (Example("a", "great film", 1), Example("b", "dull film", 0))
    with pytest.raises(ConfigError, match="a text of 64 and 5"):
        train_student(
            victim,
            lessons(Dataset("d", names, rows, rows, rows)),
            None,
            adapter=AdapterConfig(adapter="prompt-tuning", virtual_tokens=5),
            training=TrainingConfig(epochs=1),
            folder=tmp_path,
        )
