"""Full fine-tuning: every weight moves, and the folder is a plain model."""

import pytest
import torch

from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import AdapterConfig, FullTrainingConfig, StudentConfig, TrainingConfig
from w2sdefense.defenses.finetune import FineTuning
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.victim import load_victim

pytestmark = pytest.mark.slow


def test_the_rate_is_that_of_all_parameters():
    run = DefendRun(training=TrainingConfig(epochs=3, learning_rate=0.5))
    defense = FineTuning.of(run)
    assert defense.full.applied_to(defense.training) == TrainingConfig(epochs=3, learning_rate=5e-5)


def test_every_weight_is_trained_even_under_an_adapter(victim, kit, tmp_path, accuracy):
    torch.nn.init.normal_(victim.model.score.weight)
    lost = accuracy(victim)
    attach = attach_adapter(victim.model, AdapterConfig(lora_r=2))
    before = {n: p.clone() for n, p in attach.get_base_model().named_parameters()}
    victim.model = attach
    defended = FineTuning(TrainingConfig(epochs=3), FullTrainingConfig(learning_rate=3e-3)).apply(
        victim, kit
    )
    after = dict(defended.model.named_parameters())
    assert all("lora" not in name for name in after)
    unmoved = [
        name
        for name, value in after.items()
        if torch.equal(
            value,
            before.get(name, before.get(name.replace(".weight", ".base_layer.weight"), value + 1)),
        )
    ]
    assert unmoved == []
    assert accuracy(defended) >= max(0.9, lost)
    assert any("eval_loss" in point for point in defended.history), "clean validation chooses"
    defended.save(tmp_path / "saved")
    again = load_victim(StudentConfig(model=str(tmp_path / "saved"), max_length=32))
    assert accuracy(again) == accuracy(defended)
