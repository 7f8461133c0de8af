"""Defenses: one file each, one line each in `catalog.py`."""

from w2sdefense.defenses.base import (
    Defended as Defended,
    Defense as Defense,
    DefenseKit as DefenseKit,
    Guarded as Guarded,
    Leaves as Leaves,
    Need as Need,
)
from w2sdefense.defenses.catalog import DEFENSES as DEFENSES
