"""Defenses: one file each, one table of names."""

from __future__ import annotations

from w2sdefense.defenses.back_translation import BackTranslation
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Leaves, Need
from w2sdefense.defenses.finetune import FineTuning
from w2sdefense.defenses.guarded import Guarded
from w2sdefense.defenses.icl import IclDefense
from w2sdefense.defenses.lora import LoRA
from w2sdefense.defenses.merge import Merge
from w2sdefense.defenses.onion import Onion
from w2sdefense.defenses.prune import Prune
from w2sdefense.defenses.psim import Psim
from w2sdefense.defenses.quantization import Quantization
from w2sdefense.defenses.scpd import Scpd
from w2sdefense.defenses.w2s import W2SDefense

DEFENSES: dict[str, type[Defense]] = {
    "w2s": W2SDefense,
    "lora": LoRA,
    "finetune": FineTuning,
    "onion": Onion,
    "prune": Prune,
    "merge": Merge,
    "psim": Psim,
    "quantization": Quantization,
    "back-translation": BackTranslation,
    "scpd": Scpd,
    "icl": IclDefense,
}

__all__ = [
    "DEFENSES",
    "Defended",
    "Defense",
    "DefenseKit",
    "FineTuning",
    "Guarded",
    "Leaves",
    "LoRA",
    "Need",
    "Onion",
    "Prune",
    "Merge",
    "Psim",
    "Quantization",
    "BackTranslation",
    "Scpd",
    "IclDefense",
    "W2SDefense",
]
