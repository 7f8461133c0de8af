"""Which models a suspect may be said to be fine-tuned from; what is refused is in `test_cli.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from architectures import make
from tiny import LLAMA, save_model, word_tokenizer
from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.errors import ModelError
from w2sdefense.scan.origin import check_origin, origin_hint


@pytest.fixture
def adapter(tmp_path) -> Path:
    make("llama", adapter="lora")[0].save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_its_base_and_nothing_at_all(tiny_llama):
    student = StudentConfig(model=str(tiny_llama))
    check_origin(student, ScanConfig(fine_tuned_from=str(tiny_llama)))
    check_origin(student, ScanConfig())


def test_an_adapter_is_looked_at_through_its_base(adapter, tiny_llama, tmp_path):
    student = StudentConfig(model=str(adapter), base=str(tiny_llama))
    check_origin(student, ScanConfig(fine_tuned_from=str(tiny_llama)))
    narrow = type(LLAMA)(**LLAMA.to_dict() | {"hidden_size": 16})
    other = save_model(tmp_path / "narrow", LlamaForCausalLM, narrow)
    with pytest.raises(ModelError, match="16 wide, and the suspect 32"):
        check_origin(student, ScanConfig(fine_tuned_from=str(other)))


def test_a_suspect_may_have_a_few_other_tokens_than_its_base(tiny_llama, tmp_path):
    """A padding token is often added, and one that meant nothing is given a meaning."""
    folder = save_model(tmp_path / "more", LlamaForCausalLM, LLAMA)
    tokenizer = word_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    words = folder / "tokenizer.json"
    words.write_text(words.read_text().replace('"mn"', '"<tool>"'))
    student = StudentConfig(model=str(folder))
    check_origin(student, ScanConfig(fine_tuned_from=str(tiny_llama)))


@pytest.mark.parametrize(
    ("card", "named"),
    [
        ("---\nbase_model: org/small\n---\n# A model\n", "org/small"),
        ("---\nbase_model:\n- org/small\n- org/other\n---\n", "org/small"),
        ("---\nlicense: mit\n---\n", None),
        ("---\nbase_model: []\n---\n", None),
        ("# No front matter\n", None),
        ("---\nbase_model: [\n---\n", None),
        ("---\nbase_model: {a: b}\n---\n", None),
        (b"---\nbase_model: \xff\n---\n", None),
        ("---\nbase_model: a; ls\n---\n", None),
        (None, None),
    ],
)
def test_what_a_card_says_is_told_and_not_followed(tmp_path, card, named):
    folder = save_model(tmp_path / "suspect", LlamaForCausalLM, LLAMA)
    if card is not None:
        (folder / "README.md").write_bytes(card if isinstance(card, bytes) else card.encode())
    student = StudentConfig(model=str(folder))
    hint = origin_hint(student, ScanConfig(), "--flag")
    assert (hint is None) == (named is None)
    assert named is None or f"made from {named}" in hint and f"--flag {named}" in hint
    assert origin_hint(student, ScanConfig(fine_tuned_from="org/small"), "--flag") is None
