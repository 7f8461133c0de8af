"""A sharded student: with FSDP or DeepSpeed ZeRO-3, each process holds a part of every weight.

A sharded model can train, but it cannot answer texts that are divided between the processes, and no
single process can save it. After training, the adapter is therefore gathered into a folder, and
every process opens the whole model again. So a model must fit on one device for measurement, but
not for training. Only an adapter can be gathered this way; training of all parameters is refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from w2sdefense.config import AdapterConfig, GenerationConfig, StudentConfig
from w2sdefense.errors import ConfigError
from w2sdefense.models.adapters import is_quantized
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.load import to_gpu
from w2sdefense.tasks import Opening
from w2sdefense.training.fit import CHECKPOINTS
from w2sdefense.victim import Victim

GATHERED = "gathered"
"""Folder of the gathered adapter, beside the checkpoints."""


def sharded() -> bool:
    """Whether `accelerate launch` was told to shard models: FSDP or DeepSpeed."""
    return any(
        os.environ.get(name, "false").lower() == "true"
        for name in ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED")
    )


def refuse_sharding(what: str) -> None:
    """Refuse an operation that does not work on a sharded model.

    Raises:
        ConfigError: Models are sharded.
    """
    if sharded():
        raise ConfigError(
            f"{what} does not run under FSDP or DeepSpeed; only defend does, with w2s or lora.",
            "Run it first, with w2s or torchrun; a teacher is then named by --teacher-folder.",
        )


def refuse_prompt_encoder(adapter: AdapterConfig) -> None:
    """Refuse p-tuning on a sharded model: only the output of its prompt encoder would be gathered.

    Raises:
        ConfigError: Models are sharded, and the adapter is p-tuning.
    """
    if sharded() and adapter.adapter == "p-tuning":
        raise ConfigError(
            "The prompt encoder of p-tuning cannot be saved from FSDP or DeepSpeed.",
            "Use --adapter lora, or train on one device or with torchrun.",
        )


def base_to_reopen(victim: Victim) -> str:
    """Folder of the base model on which the gathered adapter will be opened.

    Raises:
        ConfigError: The model has an adapter, or was not opened from a folder.
    """
    model = victim.model
    if isinstance(model, PeftModel) or not model.name_or_path:
        raise ConfigError(
            "Under FSDP or DeepSpeed the student must be a whole model in a folder.",
            "Fold its adapter in first (--merge of the run that made it) and name that folder.",
        )
    return str(model.name_or_path)


def gather_student(trainer: Any, victim: Victim, base: str, folder: Path) -> Victim:
    """Gather the trained adapter and open the whole model in every process.

    Args:
        trainer: The Trainer that trained the student, in every process.
        victim: The student before training; its labels, precision and length are kept.
        base: Result of `base_to_reopen`.
        folder: Folder of the run.

    Returns:
        The trained student, with its adapter unmerged.
    """
    gathered = folder / CHECKPOINTS / GATHERED
    trainer.save_model(str(gathered))
    trainer.accelerator.wait_for_everyone()
    # ZeRO-3 leaves global state behind that would shard the next model that is opened.
    unset_hf_deepspeed_config()
    config = StudentConfig(
        max_length=victim.max_length,
        dtype=str(victim.model.dtype).removeprefix("torch."),
        load_in_4bit=is_quantized(victim.model),
    )
    checkpoint = resolve(str(gathered), base)
    opening = Opening(checkpoint, config, GenerationConfig(), victim.label_names)
    model, _ = type(victim.task).load(opening)
    whole = Victim(to_gpu(model), victim.task)
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        shutil.rmtree(gathered)
    return whole
