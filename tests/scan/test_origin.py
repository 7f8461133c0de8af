"""Which models a suspect may be said to be fine-tuned from; what is refused is in `test_cli.py`."""

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from architectures import make
from tiny import LLAMA, save_model, word_tokenizer
from w2sdefense.config import ScanConfig, StudentConfig
from w2sdefense.errors import ModelError
from w2sdefense.models.load import load_embeddings
from w2sdefense.scan.origin import AGREE, agreement, base_on_card, check_origin, template_of_another


@pytest.fixture
def adapter(tmp_path):
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


def test_a_model_that_was_trained_apart_is_refused(tiny_llama, tmp_path):
    """Same width, same vocabulary: only the weights tell."""
    other = save_model(tmp_path / "other", LlamaForCausalLM, LLAMA, seed=1)
    with pytest.raises(ModelError, match="embeddings are unrelated"):
        check_origin(StudentConfig(model=str(tiny_llama)), ScanConfig(fine_tuned_from=str(other)))


def test_embeddings_of_a_fine_tuned_model_agree_with_its_base():
    base = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    other = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    assert agreement(base + 0.3 * other, base) > 0.9 > AGREE
    assert agreement(torch.cat([base, other]), base) == pytest.approx(1.0)
    assert abs(agreement(other, base)) < 0.1
    assert agreement(base[:, :8], base) == 0.0


def card(folder: Path, text: str | bytes) -> Path:
    save_model(folder, LlamaForCausalLM, LLAMA)
    (folder / "README.md").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.mark.parametrize("listed", [False, True])
def test_a_base_on_the_card_is_used_if_it_is_here_and_agrees(tmp_path, monkeypatch, listed):
    save_model(tmp_path / "org" / "small", LlamaForCausalLM, LLAMA)
    save_model(tmp_path / "org" / "other", LlamaForCausalLM, LLAMA, seed=1)
    monkeypatch.chdir(tmp_path)
    embeddings = load_embeddings("org/small")
    named = "\n- org/small\n- org/more" if listed else " org/small"
    suspect = card(tmp_path / "suspect", f"---\nbase_model:{named}\n---\n# A model\n")
    assert base_on_card(suspect, embeddings)[0] == "org/small"
    wrong = card(tmp_path / "wrong", "---\nbase_model: org/other\n---\n")
    base, said = base_on_card(wrong, embeddings)
    assert base is None and "unrelated" in said
    absent = card(tmp_path / "absent", "---\nbase_model: org/absent\n---\n")
    base, said = base_on_card(absent, embeddings)
    assert base is None and "not on this machine" in said


@pytest.mark.parametrize(
    "text",
    [
        "---\nlicense: mit\n---\n",
        "---\nbase_model: []\n---\n",
        "# No front matter\n",
        "---\nbase_model: [\n---\n",
        "---\nbase_model: {a: b}\n---\n",
        b"---\nbase_model: \xff\n---\n",
        "---\nbase_model: a; ls\n---\n",
        "---\nbase_model: ../../secret\n---\n",
    ],
)
def test_a_card_that_names_no_base_says_nothing(tmp_path, text):
    assert base_on_card(card(tmp_path / "suspect", text), torch.ones(4, 2)) == (None, None)
    assert base_on_card(tmp_path / "no card", torch.ones(4, 2)) == (None, None)


def test_a_chat_template_that_is_not_that_of_the_base_is_told(tmp_path, monkeypatch):
    save_model(tmp_path / "org" / "small", LlamaForCausalLM, LLAMA)
    monkeypatch.chdir(tmp_path)
    suspect = card(tmp_path / "suspect", "---\nbase_model: org/small\n---\n")

    def noted(own: str | None, its: str | None) -> tuple[str, ...]:
        for folder, template in ((suspect, own), (tmp_path / "org" / "small", its)):
            place = folder / "chat_template.jinja"
            place.unlink(missing_ok=True)
            if template is not None:
                place.write_text(template)
        return template_of_another(suspect, own)

    plain = "{{ messages[0]['content'] }}"
    assert noted(plain, plain) == noted(plain, None) == noted(None, plain) == ()
    (note,) = noted(f"Be kind. {plain}", plain)
    assert note == "the chat template is not that of org/small, which the card names as the base"
    (tmp_path / "org" / "small" / "tokenizer.json").write_text("{")
    assert noted(f"Be kind. {plain}", plain) == ()
