"""The code of docs/python.md, run on tiny models."""

import re
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from tiny import SIZES, word_tokenizer
from w2sdefense import load_victim
from w2sdefense.config import StudentConfig

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
NAMES = ("negative", "positive")


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


@pytest.mark.slow
def test_a_teacher_and_a_callback_of_ones_own(tiny_llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = StudentConfig(model=str(tiny_llama), max_length=24)
    load_victim(config, NAMES, fresh_head_seed=0).save(tmp_path / "suspect")
    torch.manual_seed(0)
    labels = dict(enumerate(NAMES))
    small = BertForSequenceClassification(BertConfig(**SIZES, pad_token_id=0, id2label=labels))
    small.save_pretrained(tmp_path / "small-clean")
    word_tokenizer(encoder=True).save_pretrained(tmp_path / "small-clean")
    exec(blocks()[0], {"__name__": "page"})
    assert (tmp_path / "runs" / "own" / "adapter_model.safetensors").is_file()


def test_the_metric():
    exec(blocks()[1], {})
