"""Defenses: one file each, one line each in `catalog.py`."""

from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Guarded, Leaves, Need
from w2sdefense.defenses.catalog import DEFENSES

__all__ = ["DEFENSES", "Defended", "Defense", "DefenseKit", "Guarded", "Leaves", "Need"]
