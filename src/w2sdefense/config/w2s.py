"""The settings that every training of W2SDefense takes, whoever starts it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from w2sdefense.config.adapter import AdapterConfig
from w2sdefense.config.data import DataConfig
from w2sdefense.config.distill import (
    DecoyConfig,
    DistillConfig,
    WordingConfig,
)
from w2sdefense.config.models import StudentConfig, TeacherConfig
from w2sdefense.config.scan import ScanTrainingConfig
from w2sdefense.config.settings import ADVANCED, Settings
from w2sdefense.config.training import TrainingConfig


class W2SSettings(Settings):
    """The sections that a training of W2SDefense reads: what `defend` and `tune` share."""

    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    distill: DistillConfig = DistillConfig()
    decoys: DecoyConfig = Field(DecoyConfig(), json_schema_extra={"prefix": "decoys"})
    scan: ScanTrainingConfig = Field(
        ScanTrainingConfig(),
        json_schema_extra={"prefix": "scan", "shown": ["rate", "fine_tuned_from"]},
    )
    wordings: WordingConfig = Field(
        WordingConfig(), json_schema_extra={**{"prefix": "wording"}, **ADVANCED}
    )
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()
    teacher: TeacherConfig = Field(TeacherConfig(), json_schema_extra={"prefix": "teacher"})
    teacher_folder: Path | None = Field(
        None,
        description="Keep the teacher here and use it again; default: teacher/ below the output.",
    )
