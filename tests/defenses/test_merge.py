"""Merging: weights computed by hand, and models that do not belong together."""

import pytest
import torch
from transformers import LlamaForSequenceClassification

from tiny import LLAMA, save_llama, save_model
from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import AdapterConfig, FullTrainingConfig, StudentConfig, TrainingConfig
from w2sdefense.defenses.merge import Merge, MergeConfig, average
from w2sdefense.errors import ModelError
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


def test_every_weight_is_averaged(victim, kit, tmp_path):
    others = [other_model(tmp_path / str(seed), kit.data.label_names, seed) for seed in (1, 2)]
    parts = [load_victim(StudentConfig(model=path)).model.state_dict() for path in others]
    parts.append({name: value.clone() for name, value in victim.model.state_dict().items()})
    victim.model = attach_adapter(victim.model, AdapterConfig(lora_r=2))  # changes nothing yet
    merged = Merge.of(run(models=tuple(others))).apply(victim, kit)
    for name, value in merged.model.state_dict().items():
        assert torch.allclose(value, sum(part[name] for part in parts) / 3, atol=1e-6), name
    assert merged.found == {"merged_models": 3}
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
    with pytest.raises(ModelError, match="nowhere"):
        Merge.of(run(models=("./nowhere/at all",))).check()
    with pytest.raises(ModelError, match="no/base"):
        Merge.of(run(base="./no/base")).check()
    attach_adapter(victim.model, AdapterConfig(lora_r=2)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="is an adapter"):
        Merge.of(run(models=(str(tmp_path / "adapter"),))).check()
