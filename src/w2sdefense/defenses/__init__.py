"""Defenses: one file each, one line each in `catalog.py`."""

from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Leaves, Need
from w2sdefense.defenses.catalog import DEFENSES
from w2sdefense.defenses.guarded import Guarded

__all__ = ["DEFENSES", "Defended", "Defense", "DefenseKit", "Guarded", "Leaves", "Need"]
