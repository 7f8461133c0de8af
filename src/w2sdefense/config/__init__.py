"""Every setting of a run, as frozen pydantic models.

One YAML file holds one run; the flags of the command line are made from these models, so a setting
has one name, one default and one description everywhere. Checks that need no data and no model (a
weight below zero, a poison rate above one) are made here, before any work starts. Settings that
depend on data or on a checkpoint (does the target label exist?) are checked by the stage that owns
them.
"""

from w2sdefense.config.adapter import ADAPTER_OWNERS, AdapterConfig
from w2sdefense.config.attack import (
    TEXT_SLOT,
    AttackConfig,
    Place,
    ProConfig,
    SynConfig,
    attack_kind,
)
from w2sdefense.config.baselines import (
    BackTranslationConfig,
    IclConfig,
    MergeConfig,
    OnionConfig,
    PruneConfig,
    PsimConfig,
    QuantizationConfig,
    ScpdConfig,
)
from w2sdefense.config.bench import BenchRun, RayConfig
from w2sdefense.config.data import DataConfig
from w2sdefense.config.distill import (
    DistillConfig,
    InsertionConfig,
    SoftTriggerConfig,
    WordingConfig,
)
from w2sdefense.config.models import Dtype, GenerationConfig, StudentConfig, TaskName, TeacherConfig
from w2sdefense.config.runs import (
    COMMON_SECTIONS,
    DEFENSE_SECTIONS,
    DefendRun,
    DefenseName,
    DemoRun,
    EvaluateRun,
    PlanRun,
    PoisonRun,
    ScanRun,
    TeachRun,
    TestConfig,
)
from w2sdefense.config.scan import ScanConfig, ScanTrainingConfig
from w2sdefense.config.settings import Settings, load_settings, read_yaml
from w2sdefense.config.training import FullTrainingConfig, TrainingConfig
from w2sdefense.config.tune import SignalConfig, TuneConfig, TuneRun, search_span
from w2sdefense.config.w2s import W2SSettings

__all__ = [
    "ADAPTER_OWNERS",
    "AdapterConfig",
    "AttackConfig",
    "BackTranslationConfig",
    "BenchRun",
    "COMMON_SECTIONS",
    "DEFENSE_SECTIONS",
    "DataConfig",
    "DefendRun",
    "DefenseName",
    "DemoRun",
    "DistillConfig",
    "Dtype",
    "EvaluateRun",
    "FullTrainingConfig",
    "GenerationConfig",
    "IclConfig",
    "InsertionConfig",
    "MergeConfig",
    "OnionConfig",
    "Place",
    "PlanRun",
    "PoisonRun",
    "ProConfig",
    "PruneConfig",
    "PsimConfig",
    "QuantizationConfig",
    "RayConfig",
    "ScanConfig",
    "ScanRun",
    "ScanTrainingConfig",
    "ScpdConfig",
    "Settings",
    "SignalConfig",
    "SoftTriggerConfig",
    "StudentConfig",
    "SynConfig",
    "TEXT_SLOT",
    "TaskName",
    "TeachRun",
    "TeacherConfig",
    "TestConfig",
    "TrainingConfig",
    "TuneConfig",
    "TuneRun",
    "W2SSettings",
    "WordingConfig",
    "attack_kind",
    "load_settings",
    "read_yaml",
    "search_span",
]
