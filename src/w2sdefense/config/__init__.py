"""Settings as frozen pydantic models, a section each.

A setting has one name, one default and one description, here or in the file of the defense or
attack that it belongs to; `commands/runs.py` puts the sections together, and the flags of the
command line are made from these models. Checks that need no data and no model (a weight below zero,
a poison rate above one) are made here, before any work starts. Settings that depend on data or on a
checkpoint (does the target label exist?) are checked by the stage that owns them.
"""

from w2sdefense.config.adapter import ADAPTER_OWNERS, AdapterConfig
from w2sdefense.config.bench import BenchRun, RayConfig
from w2sdefense.config.data import DataConfig
from w2sdefense.config.distill import (
    DecoyConfig,
    DistillConfig,
    WordingConfig,
)
from w2sdefense.config.models import Dtype, GenerationConfig, StudentConfig, TaskName, TeacherConfig
from w2sdefense.config.scan import ScanConfig, ScanTrainingConfig
from w2sdefense.config.settings import (
    ADVANCED,
    FILES,
    TEXT_SLOT,
    Fraction,
    Place,
    Positive,
    Settings,
    load_settings,
    read_yaml,
    require_slot,
    sections_model,
)
from w2sdefense.config.training import FullTrainingConfig, TrainingConfig
from w2sdefense.config.tune import SignalConfig, TuneConfig, TuneRun, search_span
from w2sdefense.config.w2s import W2SSettings

__all__ = [
    "ADVANCED",
    "ADAPTER_OWNERS",
    "AdapterConfig",
    "BenchRun",
    "DataConfig",
    "DecoyConfig",
    "DistillConfig",
    "Dtype",
    "FILES",
    "Fraction",
    "FullTrainingConfig",
    "GenerationConfig",
    "Place",
    "Positive",
    "RayConfig",
    "ScanConfig",
    "ScanTrainingConfig",
    "Settings",
    "SignalConfig",
    "StudentConfig",
    "TEXT_SLOT",
    "TaskName",
    "TeacherConfig",
    "TrainingConfig",
    "TuneConfig",
    "TuneRun",
    "W2SSettings",
    "WordingConfig",
    "load_settings",
    "read_yaml",
    "require_slot",
    "search_span",
    "sections_model",
]
