"""Settings as frozen pydantic models, a section each.

A setting has one name, one default and one description, here or in the file of the defense or
attack that it belongs to; `commands/runs.py` puts the sections together, and the flags of the
command line are made from these models. Checks that need no data and no model (a weight below zero,
a poison rate above one) are made here, before any work starts. Settings that depend on data or on a
checkpoint (does the target label exist?) are checked by the stage that owns them.
"""

from w2sdefense.config.settings import (
    RENAMES,
    TEXT_SLOT,
    Fraction,
    Place,
    Positive,
    Settings,
    load_settings,
    read_yaml,
    require_slot,
    sections_model,
    setting,
)
from w2sdefense.config.training import (
    ADAPTER_OWNERS,
    DEFAULT_TASK,
    AdapterConfig,
    DataConfig,
    Dtype,
    FullTrainingConfig,
    GenerationConfig,
    StudentConfig,
    TaskName,
    TeacherConfig,
    TrainingConfig,
)
from w2sdefense.config.w2s import (
    KINDS,
    DecoyConfig,
    DistillConfig,
    ScanConfig,
    ScanTrainingConfig,
    SignalConfig,
    TuneConfig,
    W2SSettings,
    WordingConfig,
    search_span,
)

__all__ = [
    "ADAPTER_OWNERS",
    "DEFAULT_TASK",
    "AdapterConfig",
    "DataConfig",
    "DecoyConfig",
    "DistillConfig",
    "Dtype",
    "Fraction",
    "FullTrainingConfig",
    "GenerationConfig",
    "KINDS",
    "Place",
    "Positive",
    "RENAMES",
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
    "W2SSettings",
    "WordingConfig",
    "load_settings",
    "read_yaml",
    "require_slot",
    "search_span",
    "sections_model",
    "setting",
]
