"""Merging: weights computed by hand, and models that do not belong together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, LlamaForSequenceClassification

from tiny import LLAMA, save_llama, save_model
from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import AdapterConfig, FullTrainingConfig, StudentConfig, TrainingConfig
from w2sdefense.defenses.merge import Merge, MergeConfig, average, slerp, ties
from w2sdefense.errors import ConfigError, ModelError
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.victim import load_victim

pytestmark = pytest.mark.slow


def run(**merging) -> DefendRun:
    return DefendRun(defense="merge", merging=MergeConfig(**merging))


def other_model(folder, names, seed):
    config = type(LLAMA)(**LLAMA.to_dict() | {"id2label": dict(enumerate(names))})
    return str(save_model(folder, LlamaForSequenceClassification, config, seed))


def test_the_average_by_hand():
    values = [torch.tensor([3.0, 0.0]), torch.tensor([0.0, 6.0]), torch.tensor([0.0, 0.0])]
    assert average(values).tolist() == [1.0, 2.0]
    assert average([v.bfloat16() for v in values]).dtype == torch.bfloat16


def test_slerp_by_hand():
    # A right angle: sin 45 / sin 90 of the sum.
    half = math.sqrt(0.5)
    found = slerp([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])])
    assert found.tolist() == pytest.approx([half, half])
    # 60 degrees: 0.5 / (sqrt 3 / 2) of the sum.
    found = slerp([torch.tensor([2.0, 0.0]), torch.tensor([1.0, math.sqrt(3)])])
    assert found.tolist() == pytest.approx([3 / math.sqrt(3), 1.0])
    # Parallel, opposite and zero: the average.
    one = torch.tensor([1.0, 2.0])
    for other, expected in ((one, one), (-one, 0 * one), (0 * one, one / 2)):
        assert torch.equal(slerp([one, other]), expected)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=9), st.integers(0, 99))
def test_slerp_of_tensors_of_one_length_keeps_the_length(numbers, seed):
    one = torch.tensor(numbers)
    torch.manual_seed(seed)
    other = torch.randn(len(numbers))
    if one.norm() < 1e-3 or abs(torch.cosine_similarity(one, other, dim=0)) > 0.999:
        return
    other = other / other.norm() * one.norm()
    assert float(slerp([one, other]).norm()) == pytest.approx(float(one.norm()), rel=1e-3)


def test_ties_by_hand():
    base = {"a": torch.tensor([10.0, 0.0, 0.0]), "b": torch.tensor([[0.0, 1.0]])}
    head = {"head": torch.tensor([2.0])}
    one = {"a": torch.tensor([14.0, 3.0, 0.5]), "b": torch.tensor([[-2.0, 1.1]]), **head}
    other = {"a": torch.tensor([12.0, -5.0, 0.1]), "b": torch.tensor([[0.2, 4.0]]), **head}
    # Changes: one (4, 3, .5, -2, .1), other (2, -5, .1, .2, 3). Three fifths of each are kept:
    #          one (4, 3, 0, -2, 0),    other (2, -5, 0, 0, 3).
    # Signs of the sums: + - 0 - +. Means of those that agree: 3, -5, 0, -2, 3.
    merged = ties([one, other], base, density=0.6, scale=1.0)
    assert merged["a"].tolist() == [13.0, -5.0, 0.0]
    assert merged["b"].tolist() == [[-2.0, 4.0]]
    assert merged["head"].tolist() == [2.0], "what the base lacks is averaged"
    half = ties([one, other], base, density=0.6, scale=0.5)
    assert half["a"].tolist() == [11.5, -2.5, 0.0]
    # All are kept: 3, -5 against 3, 0.3, -2 against 0.2, (0.1 + 3) / 2.
    everything = ties([one, other], base, density=1.0, scale=1.0)
    assert everything["a"].tolist() == pytest.approx([13.0, -5.0, 0.3])
    assert everything["b"][0].tolist() == pytest.approx([-2.0, 2.55])
    assert torch.equal(ties([one], base, density=1.0, scale=1.0)["a"], one["a"])


def test_ties_is_relative_to_the_base(victim, kit, tmp_path):
    base = save_llama(tmp_path / "base")
    other = other_model(tmp_path / "other", kit.data.label_names, 1)
    own = {name: value.clone() for name, value in victim.model.state_dict().items()}
    theirs = load_victim(StudentConfig(model=other)).model.state_dict()
    start = LlamaForCausalLM.from_pretrained(base).state_dict()
    wanted = run(models=(other,), method="ties", base=str(base), density=0.5, scale=0.7)
    merged = Merge.of(wanted).apply(victim, kit).model.state_dict()
    start = {name: start[name] for name in own if name in start and name.startswith("model.")}
    for name, value in ties([own, theirs], start, 0.5, 0.7).items():
        assert torch.allclose(merged[name], value, atol=1e-6), name
    assert torch.allclose(
        merged["score.weight"], (own["score.weight"] + theirs["score.weight"]) / 2
    )
    assert victim.found["merged_by"] == "ties"


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_every_weight_is_merged(victim, kit, tmp_path, method):
    others = [other_model(tmp_path / "a", kit.data.label_names, 1)]
    if method == "linear":
        others.append(other_model(tmp_path / "b", kit.data.label_names, 2))
    own = {name: value.clone() for name, value in victim.model.state_dict().items()}
    parts = [load_victim(StudentConfig(model=path)).model.state_dict() for path in others]
    victim.model = attach_adapter(victim.model, AdapterConfig(lora_r=2))  # changes nothing yet
    defense = Merge.of(run(models=tuple(others), method=method))
    merged = defense.apply(victim, kit)
    for name, value in merged.model.state_dict().items():
        if method == "linear":
            expected = (own[name] + parts[0][name] + parts[1][name]) / 3
        else:
            expected = slerp([own[name], parts[0][name]])
        assert torch.allclose(value, expected, atol=1e-6), name
    assert merged.found == {"merged_models": len(others) + 1, "merged_by": method}
    assert merged.notes == ()


def test_without_another_model_a_clean_one_is_trained(victim, kit, tmp_path, accuracy):
    base = save_llama(tmp_path / "base")
    own = {name: value.clone() for name, value in victim.model.state_dict().items()}
    training = TrainingConfig(epochs=4)
    rate = FullTrainingConfig(learning_rate=3e-3)
    merged = Merge(MergeConfig(base=str(base)), training, rate).apply(victim, kit)
    clean = load_victim(StudentConfig(model=str(kit.folder / "clean"), max_length=32))
    assert accuracy(clean) >= 0.9
    for name, value in clean.model.state_dict().items():
        expected = (own[name] + value) / 2
        assert torch.allclose(merged.model.state_dict()[name], expected, atol=1e-6), name
    assert any("no other model was named" in note and str(base) in note for note in merged.notes)
    assert merged.history
    # They are removed when the run is measured, as for every defense.
    assert list((kit.folder / "training").glob("checkpoint-*"))
    assert not list((kit.folder / "clean").rglob("checkpoint-*"))


def test_models_that_do_not_belong_together(victim, kit, tmp_path):
    names = kit.data.label_names
    wide = type(LLAMA)(
        **LLAMA.to_dict() | {"intermediate_size": 48, "id2label": dict(enumerate(names))}
    )
    models = {
        "architecture": str(save_model(tmp_path / "w", LlamaForSequenceClassification, wide)),
        "same labels": other_model(tmp_path / "o", names[::-1], 1),
    }
    for problem, model in models.items():
        with pytest.raises(ModelError, match=problem):
            Merge(MergeConfig(models=(model,))).apply(victim, kit)
    with pytest.raises(ModelError, match="architecture"):
        Merge(MergeConfig(base=models["architecture"])).apply(victim, kit)


def test_what_cannot_work_is_refused_before_any_work(tmp_path, victim):
    with pytest.raises(ConfigError, match="between two models, and 2 others"):
        Merge.of(run(models=("a", "b"), method="slerp")).check()
    with pytest.raises(ModelError, match="nowhere"):
        Merge.of(run(models=("./nowhere/at all",))).check()
    there = str(save_llama(tmp_path / "llama"))
    with pytest.raises(ModelError, match="no/base"):
        Merge.of(run(models=(there,), method="ties", base="./no/base")).check()
    attach_adapter(victim.model, AdapterConfig(lora_r=2)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="is an adapter"):
        Merge.of(run(models=(str(tmp_path / "adapter"),))).check()
