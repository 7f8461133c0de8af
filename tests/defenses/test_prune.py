"""Pruning: the units and weights that go are those that an independent count finds idle."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from making import as_victim
from tiny import VOCABULARY, word_tokenizer
from w2sdefense.config import FullTrainingConfig, TrainingConfig
from w2sdefense.defenses.prune import Prune, PruneConfig, _keep_highest, unit_masks
from w2sdefense.errors import ModelError
from w2sdefense.models.features import backbone_of

pytestmark = pytest.mark.slow

SHORT, RATE = TrainingConfig(epochs=1), FullTrainingConfig(learning_rate=1e-3)


def token_inputs(victim, module, examples):
    """The inputs of a module, text by text without padding: (tokens, width)."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    with torch.inference_mode():
        for example in examples:
            victim.model(**victim.tokenizer(example.text, return_tensors="pt"))
    handle.remove()
    return torch.cat(seen)


def test_the_lowest_go():
    scores = torch.tensor([3.0, 1.0, 2.0, 5.0])
    assert _keep_highest(scores, 0.5).tolist() == [True, False, False, True]
    assert _keep_highest(torch.tensor([0.0, 0.0, 9.0, 0.0]), 0.5).tolist() == [0, 0, 1, 1]
    assert _keep_highest(scores, 0.24).all()
    assert _keep_highest(scores, 0.25).tolist() == [True, False, True, True]


def test_idle_units_are_found_and_cut_out_whole(victim, clean):
    examples = clean.train[:30]
    masks = unit_masks(victim, examples)(0.25)
    assert len(masks) == 2 * 3
    for number, layer in enumerate(victim.model.model.layers):
        mean = token_inputs(victim, layer.mlp.down_proj, examples).abs().mean(0)
        idle = set(mean.argsort()[:16].tolist())
        place = f"model.layers.{number}.mlp"
        for name in ("gate_proj", "up_proj"):
            rows = masks[f"{place}.{name}.weight"]
            assert rows.shape == (64, 32)
            assert {row for row in range(64) if not rows[row].any()} == idle
            assert rows.sum() == 48 * 32, "a unit goes whole or not at all"
        columns = masks[f"{place}.down_proj.weight"]
        assert {c for c in range(64) if not columns[:, c].any()} == idle
        assert columns.sum() == 48 * 32


def test_a_layer_that_keeps_its_weights_the_other_way_round(clean):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=64, n_embd=32, n_layer=2, n_head=4, pad_token_id=5
    )
    tokenizer = word_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = "</s>", "left"
    victim = as_victim(GPT2ForSequenceClassification(config).eval(), tokenizer, clean.label_names)
    examples = clean.train[:10]
    masks = unit_masks(victim, examples)(0.5)
    block = backbone_of(victim.model).h[0]
    mean = token_inputs(victim, block.mlp.c_proj, examples).abs().mean(0)
    idle = set(mean.argsort()[:64].tolist())
    into, out_of = (masks[f"transformer.h.0.mlp.{name}.weight"] for name in ("c_fc", "c_proj"))
    assert (into.shape, out_of.shape) == ((32, 128), (128, 32))
    assert {unit for unit in range(128) if not into[:, unit].any()} == idle
    assert {unit for unit in range(128) if not out_of[unit].any()} == idle
    bias = masks["transformer.h.0.mlp.c_fc.bias"]
    assert {unit for unit in range(128) if not bias[unit]} == idle


def test_a_model_without_such_layers(victim):
    victim.model.config.intermediate_size = 77
    with pytest.raises(ModelError, match="no MLP of linear layers"):
        unit_masks(victim, ())


def test_what_is_pruned_stays_pruned_and_the_rest_is_trained(victim, kit, accuracy):
    before = {name: p.detach().clone() for name, p in victim.model.named_parameters()}
    original = accuracy(victim)
    config = PruneConfig(step=0.25, max_loss=0.1, texts=60)
    defended = Prune(config, SHORT, RATE).apply(victim, kit)
    found = defended.found
    assert found["pruned_share"] in (0.25, 0.5, 0.75)
    # The row of the padding token may be zero from the beginning.
    after = dict(defended.model.named_parameters())
    zeros = sum(int(((after[n] == 0) & (p != 0)).sum()) for n, p in before.items())
    assert zeros == found["pruned_weights"] > 0
    assert found["weights"] == sum(p.numel() for p in defended.model.parameters())
    moved = [n for n, p in defended.model.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(before)
    assert accuracy(defended) >= original - 0.1


@pytest.mark.parametrize(
    ("step", "shares"),
    [(0.4, [0.4, 0.8]), (0.5, [0.5]), (0.3, [0.3, 0.6, 0.9]), (0.25, [0.25, 0.5, 0.75])],
)
def test_every_step_prunes_the_share_that_is_asked_for(victim, kit, monkeypatch, step, shares):
    tried = []

    def masks_of(share):
        tried.append(share)
        return {}

    monkeypatch.setattr("w2sdefense.defenses.prune._quality", lambda *_: 0)
    assert Prune(PruneConfig(step=step))._search(victim, kit, masks_of) == ({}, shares[-1])
    assert tried == shares


def test_nothing_is_pruned_that_clean_text_needs(victim, kit, monkeypatch):
    shares = []

    def hits(model, examples):
        mlp = model.model.model.layers[0].mlp.down_proj.weight
        shares.append(float((mlp == 0).float().mean()))
        return {0.0: 60, 0.1: 60, 0.2: 58, 0.3: 57}[round(shares[-1], 1)]

    monkeypatch.setattr("w2sdefense.defenses.prune._quality", hits)
    defended = Prune(PruneConfig(step=0.1, max_loss=0.04, texts=30), SHORT, RATE).apply(victim, kit)
    # 2 of 60 texts may be lost (4 % is 2.4), 3 may not: the third step is taken back.
    assert [round(share, 1) for share in shares] == [0.0, 0.1, 0.2, 0.3]
    assert defended.found["pruned_share"] == pytest.approx(0.2)
    weight = defended.model.model.layers[0].mlp.down_proj.weight
    assert int((weight == 0).all(0).sum()) == 12, "a fifth of 64 units, rounded down"


def test_texts_of_all_classes_are_ranked_by_where_the_file_is_sorted(victim, kit, monkeypatch):
    ranked = []

    def masks(model, examples):
        ranked.extend(examples)
        return unit_masks(model, examples)

    monkeypatch.setattr("w2sdefense.defenses.prune.unit_masks", masks)
    rows = tuple(sorted(kit.data.train, key=lambda example: example.label))
    kit = replace(kit, data=replace(kit.data, train=rows))
    Prune(PruneConfig(step=0.5, texts=60), SHORT, RATE).apply(victim, kit)
    assert Counter(example.label for example in ranked) == {0: 30, 1: 30}
