"""Settings as frozen pydantic models, one per section.

A setting has one name, one default and one description, here or in the file of the defense or
attack that it belongs to. `commands/runs.py` combines the sections, and the flags of the command
line are generated from these models. Checks that need neither data nor a model (a weight below
zero, a poison rate above one) are made here, before any work starts. Checks that depend on data or
on a checkpoint (does the target label exist?) are made by the stage that uses them.
"""

from w2sdefense.config.settings import (
    RENAMES as RENAMES,
    TEXT_SLOT as TEXT_SLOT,
    Fraction as Fraction,
    Place as Place,
    Positive as Positive,
    Seed as Seed,
    Settings as Settings,
    flat as flat,
    load_settings as load_settings,
    mark_of as mark_of,
    merged as merged,
    named_files as named_files,
    nested as nested,
    read_yaml as read_yaml,
    require_slot as require_slot,
    sections_model as sections_model,
    sections_of_file as sections_of_file,
    setting as setting,
)
from w2sdefense.config.training import (
    ADAPTER_OWNERS as ADAPTER_OWNERS,
    DEFAULT_TASK as DEFAULT_TASK,
    AdapterConfig as AdapterConfig,
    DataConfig as DataConfig,
    Dtype as Dtype,
    FullTrainingConfig as FullTrainingConfig,
    GenerationConfig as GenerationConfig,
    StudentConfig as StudentConfig,
    TaskName as TaskName,
    TeacherConfig as TeacherConfig,
    TrainingConfig as TrainingConfig,
)
from w2sdefense.config.w2s import (
    KINDS as KINDS,
    DecoyConfig as DecoyConfig,
    DistillConfig as DistillConfig,
    ScanConfig as ScanConfig,
    SignalConfig as SignalConfig,
    TaughtSettings as TaughtSettings,
    TuneConfig as TuneConfig,
    W2SSettings as W2SSettings,
    search_span as search_span,
)
