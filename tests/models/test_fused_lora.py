"""The fused LoRA layer does what PEFT's does."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import LlamaForSequenceClassification

from tiny import LLAMA
from w2sdefense.config import AdapterConfig
from w2sdefense.models import fused_lora
from w2sdefense.models.adapters import attach_adapter
from w2sdefense.models.fused_lora import FusedLoraLinear, keep_mask


def layer(*, bias: bool = False, rate: float = 0.0, scaling: float = 0.5) -> FusedLoraLinear:
    """One adapted 6 -> 4 layer whose B is not zero, so that the adapter matters."""
    torch.manual_seed(0)
    base = nn.Linear(6, 4, bias=bias).requires_grad_(False)
    config = LoraConfig(r=2, lora_alpha=2 * scaling, lora_dropout=rate)
    adapted = FusedLoraLinear(base, "default", config=config, r=2, lora_alpha=2 * scaling)
    nn.init.normal_(adapted.lora_B["default"].weight)
    return adapted.train()


def outcome(forward, module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of A and B."""
    x = x.clone().requires_grad_()
    module.zero_grad()
    output = forward(x)
    output.square().sum().backward()
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    return [output.detach(), x.grad, a.grad.clone(), b.grad.clone()]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 6), (2, 5, 6)])
def test_output_and_gradients_are_those_of_peft(bias, shape):
    module, x = layer(bias=bias), torch.randn(*shape)
    fused = outcome(module, module, x)
    plain = outcome(lambda x: LoraLinear.forward(module, x), module, x)
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_with_a_given_mask_it_is_peft_with_that_dropout(monkeypatch):
    module, x = layer(rate=0.5), torch.randn(3, 6)
    mask = (torch.rand(3, 6) < 0.5).float()
    monkeypatch.setattr(fused_lora, "keep_mask", lambda shape, rate: (mask, 0.5))
    fused = outcome(module, module, x)

    class Given(nn.Module):
        def forward(self, x):
            return x * mask / 0.5

    module.lora_dropout["default"] = Given()
    plain = outcome(lambda x: LoraLinear.forward(module, x), module, x)
    for ours, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_an_input_without_gradient_gets_none():
    module = layer(rate=0.1)
    module(torch.randn(3, 6)).sum().backward()
    assert module.lora_A["default"].weight.grad is not None


def test_the_mask_has_the_rate_and_follows_the_seed():
    torch.manual_seed(1)
    mask, kept = keep_mask(torch.Size((1000, 333)), 0.1)
    assert kept == pytest.approx(0.9, abs=2**-16)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    # Five standard deviations of a binomial share.
    assert mask.mean().item() == pytest.approx(0.9, abs=5 * (0.09 / mask.numel()) ** 0.5)
    assert abs(torch.corrcoef(torch.stack([mask[:-1].flatten(), mask[1:].flatten()]))[0, 1]) < 0.01
    torch.manual_seed(1)
    assert torch.equal(keep_mask(torch.Size((1000, 333)), 0.1)[0], mask)
    assert not torch.equal(keep_mask(torch.Size((1000, 333)), 0.1)[0], mask)


def not_training(module):
    module.eval()


def disabled(module):
    module.enable_adapters(False)


def merged(module):
    module.merge()


def in_double(module):
    module.double()


def base_is_trained(module):
    module.base_layer.requires_grad_(True)


@pytest.mark.parametrize(
    "change", [not_training, disabled, merged, in_double, base_is_trained], ids=lambda f: f.__name__
)
def test_everything_else_is_left_to_peft(change, monkeypatch):
    module = layer()
    change(module)
    monkeypatch.setattr(fused_lora, "_AdaptedLinear", None)
    x = torch.randn(3, 6, dtype=module.base_layer.weight.dtype)
    torch.testing.assert_close(module(x), LoraLinear.forward(module, x))


def test_autocast_is_left_to_peft(monkeypatch):
    module = layer()
    monkeypatch.setattr(fused_lora, "_AdaptedLinear", None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(torch.randn(3, 6)).dtype == torch.bfloat16


def tiny_classifier() -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    return LlamaForSequenceClassification(type(LLAMA)(**LLAMA.to_dict() | {"pad_token_id": 0}))


def test_an_attached_adapter_is_an_ordinary_one_on_disk(tmp_path):
    base = tiny_classifier()
    pristine = copy.deepcopy(base)
    adapter = AdapterConfig(lora_r=4, target_modules="all-linear")
    student = attach_adapter(base, adapter)
    layers = [m for m in student.modules() if isinstance(m, LoraLinear)]
    assert layers and all(isinstance(m, FusedLoraLinear) for m in layers)
    for m in layers:
        nn.init.normal_(m.lora_B["default"].weight, std=0.1)
    student.save_pretrained(tmp_path)
    opened = PeftModel.from_pretrained(pristine, tmp_path).eval()
    assert not any(isinstance(m, FusedLoraLinear) for m in opened.modules())
    ids = torch.arange(1, 11).view(2, 5)
    wanted = student.eval()(ids).logits
    torch.testing.assert_close(opened(ids).logits, wanted)
    torch.testing.assert_close(student.merge_and_unload()(ids).logits, wanted)


def test_a_training_step_has_the_gradients_of_peft():
    config = LoraConfig(task_type="SEQ_CLS", r=4, lora_dropout=0.0, target_modules="all-linear")
    theirs = get_peft_model(tiny_classifier(), config).train()
    ours = attach_adapter(
        tiny_classifier(),
        AdapterConfig(lora_r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear"),
    ).train()
    with torch.no_grad():
        for name, value in theirs.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(value, std=0.1)
    ours.load_state_dict(theirs.state_dict())
    batch = {
        "input_ids": torch.arange(1, 13).view(2, 6),
        "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]]),
        "labels": torch.tensor([0, 1]),
    }
    for model in (ours, theirs):
        model(**batch).loss.backward()
    wanted = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    assert len(wanted) == 2 * 2 * 7 + 1
    for name, value in ours.named_parameters():
        if name in wanted:
            torch.testing.assert_close(value.grad, wanted[name])
