"""The registry of defenses, and the sections of a run that they read.

To add a defense, import it here and list it in `DEFENSES`; no other file needs a change. Nothing
here imports torch, because the help of the command line imports this module.
"""

from __future__ import annotations

from w2sdefense.config import Settings, sections_of_file
from w2sdefense.defenses.base import Defense, Leaves
from w2sdefense.defenses.finetune import FineTuning, LoRA
from w2sdefense.defenses.icl import IclDefense
from w2sdefense.defenses.merge import Merge
from w2sdefense.defenses.onion import Onion
from w2sdefense.defenses.prune import Prune
from w2sdefense.defenses.psim import Psim
from w2sdefense.defenses.quantization import Quantization
from w2sdefense.defenses.rewriting import BackTranslation, Scpd
from w2sdefense.defenses.w2s import W2SDefense

DEFENSES: dict[str, type[Defense]] = {
    kind.name: kind
    for kind in (
        W2SDefense,
        LoRA,
        FineTuning,
        Onion,
        Prune,
        Merge,
        Psim,
        Quantization,
        BackTranslation,
        Scpd,
        IclDefense,
    )
}
"""The defenses by name, in the order of tables."""

COMMON_SECTIONS = frozenset({"task", "student", "data", "generation", "defense", "test"})
"""The sections of a run that every defense reads."""


def sections_of(defense: str) -> frozenset[str]:
    """The sections of a run that a defense reads; the others have no effect on it."""
    kind = DEFENSES[defense]
    measured = {"held_out"} if kind.leaves is Leaves.ADAPTER else set()
    return COMMON_SECTIONS | kind.sections().keys() | measured


def own_sections() -> dict[str, tuple[str, type[Settings]]]:
    """The sections that belong to one defense: name -> (name of the defense, settings class)."""
    return {
        section: (name, settings)
        for name, kind in DEFENSES.items()
        for section, settings in sections_of_file(kind).items()
    }
