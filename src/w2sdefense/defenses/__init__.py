"""Defenses: one file each, one table of names."""

from __future__ import annotations

from w2sdefense.defenses.base import Defense, DefenseKit, Need
from w2sdefense.defenses.lora import LoRA
from w2sdefense.defenses.w2s import W2SDefense

DEFENSES: dict[str, type[LoRA] | type[W2SDefense]] = {
    "lora": LoRA,
    "w2s": W2SDefense,
}

__all__ = ["DEFENSES", "Defense", "DefenseKit", "LoRA", "Need", "W2SDefense"]
