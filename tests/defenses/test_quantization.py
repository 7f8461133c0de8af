"""NF4: weights against the sixteen values by hand, sizes, and a folder that opens again."""

import pytest
import torch

from w2sdefense.commands.runs import DefendRun
from w2sdefense.config import StudentConfig, TrainingConfig
from w2sdefense.defenses.quantization import Quantization, quantize
from w2sdefense.errors import MissingDependencyError, ModelError
from w2sdefense.victim import load_victim

pytestmark = pytest.mark.slow

pytest.importorskip("bitsandbytes")


@pytest.fixture
def victim(wide):
    return load_victim(StudentConfig(model=str(wide), max_length=32))


# Dettmers et al. 2023, appendix E.
NF4 = torch.tensor(
    [-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0]
    + [0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0]
)


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """Every 64 weights are scaled by their largest and go to the nearest of the sixteen values."""
    blocks = weight.reshape(-1, 64)
    scales = blocks.abs().amax(1, keepdim=True)
    nearest = (blocks[..., None] / scales[..., None] - NF4).abs().argmin(-1)
    return (NF4[nearest] * scales).reshape(weight.shape)


def test_a_layer_computes_with_rounded_weights(victim):
    weight = victim.model.model.layers[0].mlp.down_proj.weight.detach().clone()
    head = victim.model.score.weight.detach().clone()
    model = quantize(victim.model)
    layer = model.model.layers[0].mlp.down_proj  # 64 inputs: a block of scales is a row
    with torch.inference_mode():
        columns = layer(torch.eye(64)).t()
    assert torch.allclose(columns, rounded(weight), atol=1e-4)
    assert not torch.allclose(columns, weight, atol=1e-3)
    assert torch.equal(model.score.weight, head), "the head is not rounded"
    flags = [getattr(part, "support_avx512bf16_for_cpu", False) for part in model.modules()]
    assert not any(flags), "no processor packs the weights anew"


def test_the_fine_tuned_model_is_quantized(victim, kit, tmp_path, accuracy):
    torch.nn.init.normal_(victim.model.score.weight)
    defense = Quantization(training=TrainingConfig(epochs=3, learning_rate=3e-3))
    before = victim.model.num_parameters() * 4
    defended = defense.apply(victim, kit)
    assert accuracy(defended) >= 0.75
    found = defended.found
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 64 * 3)
    assert (found["bits"], found["quantized_weights"]) == (4, linear)
    assert (found["bytes_before"], found["weights"]) == (before, before // 4)
    # Half a byte each and a float32 for every 64, instead of four bytes; and 14 small tables.
    saved = linear * 4 - linear // 2 - linear // 64 * 4
    assert 0 <= found["bytes"] - (before - saved) <= 14 * 300
    defended.save(tmp_path / "saved")
    again = load_victim(StudentConfig(model=str(tmp_path / "saved"), max_length=32))
    texts = [example.text for example in kit.data.test]
    for one, other in zip(defended.predict(texts), again.predict(texts), strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)


def test_without_the_package_it_fails_at_once(without_bitsandbytes):
    with pytest.raises(MissingDependencyError, match="bitsandbytes") as caught:
        Quantization.of(DefendRun()).check()
    assert "w2sdefense[quantization]" in caught.value.fix


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is right on a GPU")
def test_a_model_that_is_too_narrow_is_not_trained_first(trained, kit):
    victim = load_victim(StudentConfig(model=str(trained)))
    with pytest.raises(ModelError, match="has 32 inputs"):
        Quantization().apply(victim, kit)
    assert not kit.folder.exists()
