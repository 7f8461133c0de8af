"""Tokens whose embeddings moved, on tables where that is known, and on a model that is poisoned."""

from __future__ import annotations

import random

import pytest
import torch

from tiny import BERT, LLAMA, save_bert, save_llama, word_tokenizer
from w2sdefense.errors import ModelError
from w2sdefense.models.load import load_backbone, load_embeddings
from w2sdefense.scan.moved import moved_tokens
from w2sdefense.scan.pieces import PieceMaker

BASE = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def moved(by: dict[int, float]) -> torch.Tensor:
    # Weight decay moves every row a little.
    suspect = BASE * 0.999
    for token, length in by.items():
        suspect[token] += length * torch.nn.functional.normalize(torch.ones(8), dim=0)
    return suspect


def test_the_farthest_come_first_and_what_only_decayed_is_none():
    assert moved_tokens(moved({7: 0.5, 3: 2.0, 21: 1.0}), BASE, 10) == [3, 21, 7]
    assert moved_tokens(moved({7: 0.5, 3: 2.0, 21: 1.0}), BASE, 2) == [3, 21]


def test_a_model_equal_to_its_base_has_no_embedding_drift():
    assert moved_tokens(BASE.clone(), BASE, 10) == []


def test_rows_that_only_one_has_do_not_count():
    assert moved_tokens(torch.cat([moved({3: 2.0}), torch.ones(5, 8)]), BASE, 10) == [3]


def test_another_width_is_another_model():
    with pytest.raises(ModelError, match="or none"):
        moved_tokens(torch.ones(40, 4), BASE, 10)


@pytest.mark.parametrize(("save", "width"), [(save_llama, LLAMA), (save_bert, BERT)])
def test_only_the_embeddings_of_a_folder_are_read(save, width, tmp_path):
    folder = save(tmp_path / "model")
    whole, _ = load_backbone(str(folder))
    found = load_embeddings(str(folder))
    assert torch.equal(found, whole.get_input_embeddings().weight)
    assert found.shape[1] == width.hidden_size


def test_a_folder_without_tensors_is_refused(tmp_path):
    folder = save_llama(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError):
        load_embeddings(str(folder))


def test_what_moved_is_tried_first_alone_and_in_pairs():
    tokenizer = word_tokenizer()
    tokens = tokenizer.convert_tokens_to_ids(["mn", "cf", "film"])
    maker = PieceMaker(("a warm film",), tokenizer, random.Random(0), tokens)
    assert maker.first(200)[:3] == ["mn", "cf", "film"]
    pairs = {"mn cf", "cf mn", "mn film", "film mn", "cf film", "film cf"}
    assert set(maker.first(200)[3:9]) == pairs
    children = maker.children(["dull"], 400)
    assert sum("mn" in child.split() for child in children) > 20
