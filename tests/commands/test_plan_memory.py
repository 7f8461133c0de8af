"""Estimates of memory: against what autograd really keeps, and how the ways divide it."""

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch.autograd.graph import saved_tensors_hooks
from transformers import LlamaForSequenceClassification, PretrainedConfig

from w2sdefense.commands.plan import (
    GIB,
    Memory,
    checkpointed_activations,
    layer_activations,
    memory,
)
from w2sdefense.commands.runs import PlanRun
from w2sdefense.config import AdapterConfig
from w2sdefense.models.sizes import STUDENTS, Sizes, decoder, skeleton_sizes

BATCH, LENGTH, RANK = 4, 64, 8

LINEARS = [f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")]


def kept(
    shape: PretrainedConfig, dtype: torch.dtype, dropout: float, *, checkpointing: bool
) -> int:
    """Bytes that autograd keeps of a forward pass, weights left out."""
    shape.pad_token_id = 0
    model = LlamaForSequenceClassification(shape).to(dtype)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=RANK, lora_dropout=dropout, target_modules=LINEARS
    )
    model = get_peft_model(model, lora).train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    mixed = dtype != torch.float32
    tokens = torch.randint(1, shape.vocab_size, (BATCH, LENGTH))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=dtype) if mixed else nullcontext():
            loss = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits.sum()
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def planned(dtype: torch.dtype, dropout: float) -> PlanRun:
    name = str(dtype).removeprefix("torch.")
    adapter = AdapterConfig(lora_r=RANK, lora_dropout=dropout)
    return PlanRun(
        student="student", batch_size=BATCH, max_length=LENGTH, dtype=name, adapter=adapter
    )


def shape_and_sizes(layers: int) -> tuple[PretrainedConfig, Sizes]:
    shape = decoder(layers, 128, 512, 8, 2, 100)
    return shape, skeleton_sizes("student", shape, AdapterConfig(lora_r=RANK), 2)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_that_a_layer_keeps_is_the_estimate(dtype, dropout):
    found = []
    for layers in (1, 3):
        shape, sizes = shape_and_sizes(layers)
        found.append(kept(shape, dtype, dropout, checkpointing=False))
    a_layer = (found[1] - found[0]) / 2
    # A mask of dropout has four bytes on a CPU, and one on an accelerator.
    inputs = sizes.adapted_inputs // sizes.layers
    on_cpu = 3 * BATCH * LENGTH * inputs if dropout else 0
    estimate = layer_activations(sizes, planned(dtype, dropout)) + on_cpu
    too_much = 1.2 if dtype == torch.float32 and not dropout else 1.02
    assert 0.96 * a_layer < estimate < too_much * a_layer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_keeps_the_input_of_every_layer(dtype):
    found, estimates = [], []
    for layers in (1, 3):
        shape, sizes = shape_and_sizes(layers)
        found.append(kept(shape, dtype, 0.0, checkpointing=True))
        estimates.append(checkpointed_activations(sizes, planned(dtype, 0.0)))
    assert found[1] - found[0] == estimates[1] - estimates[0]


PLANNED = PlanRun(student="Qwen/Qwen2.5-14B", gpus=4)
QWEN_14B = skeleton_sizes("student", STUDENTS[PLANNED.student], PLANNED.adapter, 2)


def test_trained_parameters_take_sixteen_bytes_and_frozen_ones_two():
    alone = memory("single", QWEN_14B, PLANNED)
    assert alone.adapter + alone.gradients + alone.optimizer == 16 * QWEN_14B.trainable
    assert alone.weights == 2 * (QWEN_14B.backbone + QWEN_14B.head)
    assert alone.targets == 4 * 16 * (5120 + 2)
    spread = memory("ddp", QWEN_14B, PLANNED)
    assert spread.weights == alone.weights
    assert spread.gradients == 2 * alone.gradients


@pytest.mark.parametrize(
    ("way", "gathered"), [("fsdp", 2 * QWEN_14B.largest), ("zero3", 1_000_000_000)]
)
def test_what_is_cut_is_a_part_and_what_is_gathered(way, gathered):
    alone, cut = memory("single", QWEN_14B, PLANNED), memory(way, QWEN_14B, PLANNED)
    assert cut.weights == alone.weights // 4 + 2 * gathered
    for part in ("adapter", "gradients", "optimizer"):
        assert getattr(cut, part) == getattr(alone, part) // 4
    assert cut.measuring == alone.measuring, "every device measures the whole model"
    assert cut.peak(checkpointing=True) == cut.measuring


def test_four_bits_are_four_and_a_half():
    rounded = memory("4bit", QWEN_14B, PLANNED)
    frozen = QWEN_14B.backbone + QWEN_14B.head
    plain = 2 * (frozen - QWEN_14B.linear)
    one_restored = 2 * 5120 * 13824
    assert rounded.weights == int(QWEN_14B.linear * 4.5 / 8) + plain + one_restored


@pytest.mark.parametrize(
    ("size", "fits"), [(100, "yes"), (99, "with gradient checkpointing"), (66, "no")]
)
def test_a_tenth_of_the_device_stays_free(size, fits):
    used = Memory(
        10 * GIB, 2, 3, 4, activations=80 * GIB - 10, checkpointed=50 * GIB, targets=1, measuring=5
    )
    assert used.fits(size * GIB) == fits
