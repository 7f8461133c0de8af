"""The settings of a whole run: what each command takes.

Every model is put together from the settings of the modules beside this one. Which stages a
command runs, and in which order, is in `commands/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w2sdefense.config.adapter import AdapterConfig
from w2sdefense.config.attack import (
    AttackConfig,
    Place,
    ProConfig,
    SynConfig,
    attack_kind,
    check_attacks,
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
from w2sdefense.config.data import DataConfig
from w2sdefense.config.models import GenerationConfig, StudentConfig, TaskName, TeacherConfig
from w2sdefense.config.scan import ScanConfig
from w2sdefense.config.settings import Positive, Settings
from w2sdefense.config.training import FullTrainingConfig, TrainingConfig
from w2sdefense.config.w2s import W2SSettings

DefenseName = Literal[
    "w2s",
    "lora",
    "finetune",
    "onion",
    "prune",
    "merge",
    "psim",
    "quantization",
    "back-translation",
    "scpd",
    "icl",
]
"""The defenses of the table in `defenses/`, by name."""

DEFENSE_SECTIONS: dict[str, frozenset[str]] = {
    "w2s": frozenset({"distill", "scan", "insertions", "wordings", "soft", "adapter", "training"}),
    "lora": frozenset({"adapter", "training"}),
    "finetune": frozenset({"training", "full"}),
    "onion": frozenset({"onion"}),
    "prune": frozenset({"prune", "training", "full"}),
    "merge": frozenset({"merging", "training", "full"}),
    "psim": frozenset({"psim", "adapter", "training"}),
    "quantization": frozenset({"quantization", "adapter", "training", "full"}),
    "back-translation": frozenset({"back_translation"}),
    "scpd": frozenset({"scpd"}),
    "icl": frozenset({"icl"}),
}
"""The sections of `DefendRun` that each defense reads of its own: the others change nothing."""

COMMON_SECTIONS = frozenset({"task", "student", "data", "generation", "defense", "test"})
"""The sections that every defense reads."""

RESUME = (
    "Continue what is in the output folder: finished stages are kept, training goes on from its "
    "last checkpoint."
)


TASK = (
    "What the model is asked for: a label (classification), or text: summarization (ROUGE), "
    "reasoning (exact numbers). Text needs a causal language model and a column with the answers."
)


class TestConfig(Settings):
    """What to measure on the test texts."""

    trigger: str | None = Field(
        None,
        description="Trigger to measure ASR with: any text, or a named attack (badnet, insent, "
        "synattack, proattack). Without one only CA is measured.",
    )
    more_triggers: tuple[str, ...] = Field(
        (),
        description="A further trigger, a text or a named attack; may be given more than once. "
        "Each test text carries one of them.",
    )
    target: str | None = Field(
        None,
        description="Label (for generation: text) that the trigger should force; needed with "
        "--trigger.",
    )
    place: Place = Field(
        "random", description="Where the trigger goes: random inner slot, start or end."
    )
    test_seed: int = Field(0, description="Seed of the trigger's places.")
    syn: SynConfig = Field(SynConfig(), json_schema_extra={"prefix": "syn"})
    pro: ProConfig = Field(ProConfig(), json_schema_extra={"prefix": "pro"})

    @model_validator(mode="after")
    def _fitting_triggers(self) -> Self:
        if (self.trigger is None) != (self.target is None):
            raise ValueError("trigger and target go together: name both or neither")
        if self.trigger is None and self.more_triggers:
            raise ValueError("more_triggers are beside a trigger: name one")
        if self.trigger is not None and not self.trigger.strip():
            raise ValueError("the trigger is empty")
        check_attacks(attack_kind(self.trigger or ""), self.more_triggers, self.syn, self.pro)
        return self


class PoisonRun(Settings):
    """Plant a backdoor into a model that you own, to measure defenses on it."""

    task: TaskName = Field("classification", description=TASK)
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()
    proxy: str | None = Field(
        None,
        description="Dataset whose training rows are poisoned (the attacker's), if it is not "
        "--dataset itself: any dataset, or paper for the paper's choice (w2s ls). CA and ASR are "
        "measured on --dataset.",
    )
    attack: AttackConfig = AttackConfig()
    training: TrainingConfig = TrainingConfig(epochs=2, learning_rate=5e-5)
    output: Path = Field(Path("runs/poisoned"), description="Folder for the model and its record.")
    resume: bool = Field(False, description=RESUME)


class TeachRun(Settings):
    """Fine-tune a clean teacher for a student."""

    task: TaskName = Field("classification", description=TASK)
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()
    teacher: TeacherConfig = Field(TeacherConfig(), json_schema_extra={"prefix": "teacher"})
    alignment: Literal["paper", "release"] = Field(
        "paper", description="release: the teacher's classifier reads ReLU(h_t)."
    )
    output: Path = Field(Path("runs/teacher"), description="Folder for the teacher.")
    resume: bool = Field(False, description=RESUME)


class DefendRun(W2SSettings):
    """Clean a model with the clean data that you have, and measure it before and after."""

    task: TaskName = Field("classification", description=TASK)
    generation: GenerationConfig = GenerationConfig()
    defense: DefenseName = Field("w2s", description="Which defense.")
    full: FullTrainingConfig = Field(FullTrainingConfig(), json_schema_extra={"prefix": "full"})
    onion: OnionConfig = Field(OnionConfig(), json_schema_extra={"prefix": "onion"})
    prune: PruneConfig = Field(PruneConfig(), json_schema_extra={"prefix": "prune"})
    merging: MergeConfig = Field(MergeConfig(), json_schema_extra={"prefix": "merge"})
    psim: PsimConfig = Field(PsimConfig(), json_schema_extra={"prefix": "psim"})
    quantization: QuantizationConfig = Field(
        QuantizationConfig(), json_schema_extra={"prefix": "quantization"}
    )
    back_translation: BackTranslationConfig = Field(
        BackTranslationConfig(), json_schema_extra={"prefix": "back_translation"}
    )
    scpd: ScpdConfig = Field(ScpdConfig(), json_schema_extra={"prefix": "scpd"})
    icl: IclConfig = Field(IclConfig(), json_schema_extra={"prefix": "icl"})
    test: TestConfig = TestConfig()
    output: Path = Field(
        Path("runs/defended"), description="Folder for adapter, record and report."
    )
    merge: bool = Field(
        False,
        description="Also write merged/: one plain transformers model, the adapter folded in.",
    )
    resume: bool = Field(False, description=RESUME)

    def full_training(self) -> TrainingConfig:
        """The training settings for all parameters, which want a lower rate than an adapter."""
        return self.training.model_copy(update={"learning_rate": self.full.learning_rate})


class EvaluateRun(Settings):
    """Measure a model: CA, and with a trigger ASR and the floor without it."""

    task: TaskName = Field("classification", description=TASK)
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()
    test: TestConfig = TestConfig()
    output: Path = Field(
        Path("runs/evaluated"), description="Folder for record, samples and report."
    )
    resume: bool = Field(False, description=RESUME)


class PlanRun(Settings):
    """How a student would be defended, and on what."""

    student: str = Field(
        description="Student: one of the paper (Qwen/Qwen2.5-14B, LLaMA3-8B, vicuna-7b-v1.5 ...), "
        "the embedded smollm2-135m, or any folder or hub id, whose config alone is read."
    )
    gpus: Positive = Field(1, description="Number of GPUs of one machine.")
    gpu_memory: Annotated[float, Field(gt=0.0)] = Field(80.0, description="GiB of each of them.")
    labels: Positive = Field(2, description="Number of labels.")
    batch_size: Positive = Field(16, description="Rows per step and device.")
    max_length: Positive = Field(128, description="Tokens in a row.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "bfloat16",
        description="Precision the weights are loaded in; a head cannot be trained in float16.",
    )
    adapter: AdapterConfig = AdapterConfig()
    json_output: bool = Field(
        False, description="Print JSON, in bytes.", json_schema_extra={"flag": "json"}
    )


class ScanRun(Settings):
    """Search a model for what may fire a backdoor; a trigger need not be known."""

    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    scan: ScanConfig = ScanConfig()
    teacher: TeacherConfig = Field(TeacherConfig(), json_schema_extra={"prefix": "teacher"})
    teacher_folder: Path | None = Field(
        None,
        description="Keep the teacher here and use it again; default: teacher/ below the output.",
    )
    scan_seed: int = Field(0, description="Seed of the search.")
    output: Path = Field(Path("runs/scan"), description="Folder for suspects.json.")
    resume: bool = Field(False, description=RESUME)


class DemoRun(Settings):
    """Where the demonstration goes; its sizes are fixed."""

    output: Path = Field(Path("runs/demo"), description="Folder for models, records and report.")
