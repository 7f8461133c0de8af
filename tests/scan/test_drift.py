"""Tokens that a training taught something, on tables where that is known and on real updates."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from tiny import BERT, LLAMA, save_bert, save_llama, word_tokenizer
from w2sdefense.errors import ModelError
from w2sdefense.models.load import load_backbone, load_embeddings
from w2sdefense.scan.origin import embedding_drift, suspicious_tokens

BASE = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def moved(by: dict[int, float]) -> torch.Tensor:
    # Weight decay moves every row a little.
    suspect = BASE * 0.999
    for token, length in by.items():
        suspect[token] += length * torch.nn.functional.normalize(torch.ones(8), dim=0)
    return suspect


def test_the_farthest_come_first_and_what_only_decayed_is_none():
    assert embedding_drift(moved({7: 0.5, 3: 2.0, 21: 1.0}), BASE, 10) == [3, 21, 7]
    assert embedding_drift(moved({7: 0.5, 3: 2.0, 21: 1.0}), BASE, 2) == [3, 21]


def test_a_model_that_is_its_base_has_none():
    assert embedding_drift(BASE.clone(), BASE, 10) == []


def test_rows_that_only_one_has_do_not_count():
    assert embedding_drift(torch.cat([moved({3: 2.0}), torch.ones(5, 8)]), BASE, 10) == [3]


def test_another_width_is_another_model():
    with pytest.raises(ModelError, match="or none"):
        embedding_drift(torch.ones(40, 4), BASE, 10)


@pytest.mark.parametrize(("save", "width"), [(save_llama, LLAMA), (save_bert, BERT)])
def test_only_the_embeddings_of_a_folder_are_read(save, width, tmp_path):
    folder = save(tmp_path / "model")
    whole, _ = load_backbone(str(folder))
    found = load_embeddings(str(folder))
    assert torch.equal(found, whole.get_input_embeddings().weight)
    assert found.shape[1] == width.hidden_size


def test_a_folder_without_them_says_so(tmp_path):
    folder = save_llama(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_embeddings(str(folder))


@pytest.fixture(params=[save_llama, save_bert])
def base(request, tmp_path):
    return request.param(tmp_path / "base")


def classifier(base):
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)


@pytest.mark.parametrize("through", ["the weights", "an adapter"])
def test_an_update_that_answers_one_token_names_it(base, through):
    """No embedding moves: a matrix of the first layer learns to answer one of them."""
    model = classifier(base)
    token = word_tokenizer().convert_tokens_to_ids("mn")
    aim = torch.nn.functional.normalize(model.get_input_embeddings().weight[token], dim=0).detach()
    name = "q_proj" if "Llama" in type(model).__name__ else "query"
    assert suspicious_tokens(model, str(base), 5) == []
    if through == "an adapter":
        model = get_peft_model(model, LoraConfig(r=1, lora_alpha=1, target_modules=[name]))
    layer = next(
        m
        for n, m in model.named_modules()
        if n.endswith(f"0.self_attn.{name}") or n.endswith(f"0.attention.self.{name}")
    )
    with torch.no_grad():
        if through == "an adapter":
            layer.lora_A["default"].weight.copy_(aim[None])
            layer.lora_B["default"].weight.fill_(1.0)
        else:
            layer.weight += torch.ones(len(layer.weight), 1) @ aim[None]
    assert suspicious_tokens(model, str(base), 5)[0] == token


def test_drift_and_response_take_turns(tmp_path):
    base = save_llama(tmp_path / "base")
    model = classifier(base)
    ids = word_tokenizer().convert_tokens_to_ids
    with torch.no_grad():
        table = model.get_input_embeddings().weight
        aim = torch.nn.functional.normalize(table[ids("mn")], dim=0)
        layer = model.model.layers[0].self_attn.q_proj
        layer.weight += 0.5 * torch.ones(len(layer.weight), 1) @ aim[None]
        table[ids("film")] += 3.0
    assert suspicious_tokens(model, str(base), 64)[:2] == [ids("film"), ids("mn")]
