"""What each command takes: a run is put together from the settings in `config/` and the catalogs.

One YAML file holds one run. Which stages a command runs, and in which order, is in the modules
beside this one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from w2sdefense.attacks.catalog import OWN_SECTIONS as ATTACK_SECTIONS
from w2sdefense.attacks.catalog import AttackConfig, TestConfig
from w2sdefense.config import (
    ADAPTER_OWNERS,
    FILES,
    AdapterConfig,
    DataConfig,
    FullTrainingConfig,
    GenerationConfig,
    Positive,
    ScanConfig,
    Settings,
    StudentConfig,
    TaskName,
    TeacherConfig,
    TrainingConfig,
    W2SSettings,
    sections_model,
)
from w2sdefense.defenses.base import Need
from w2sdefense.defenses.catalog import DEFENSES, own_sections, sections_of

_DefenseName: Any = Literal[tuple(DEFENSES)]
_DefenseSections: Any = sections_model(
    {
        section: (defense.replace("-", "_"), settings)
        for section, (defense, settings) in own_sections().items()
    }
)

RESUME = (
    "Continue what is in the output folder: finished stages are kept, training goes on from its "
    "last checkpoint."
)


TASK = (
    "What the model is asked for: a label (classification), or text: summarization (ROUGE), "
    "reasoning (exact numbers). Text needs a causal language model and a column with the answers."
)


class Answering(Settings):
    """How a command that measures answers a script; no part of what it measures or records."""

    json_output: bool = Field(
        False,
        description="Print the result as JSON (docs/gate.md); progress goes to stderr.",
        json_schema_extra={"flag": "json"},
        exclude=True,
    )


class Gated(Answering):
    """A command whose exit code says what it found."""

    fail_on: Literal["alive", "suspect", "inconclusive"] | None = Field(
        None,
        description="Exit with 1 (or 3) from this outcome on (docs/gate.md).",
        exclude=True,
    )


class PoisonRun(Answering):
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
        json_schema_extra=FILES,
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


class DefendRun(Gated, W2SSettings, _DefenseSections):
    """Clean a model with the clean data that you have, and measure it before and after."""

    task: TaskName = Field("classification", description=TASK)
    generation: GenerationConfig = GenerationConfig()
    defense: _DefenseName = Field("w2s", description="Which defense.")
    full: FullTrainingConfig = Field(FullTrainingConfig(), json_schema_extra={"prefix": "full"})
    test: TestConfig = TestConfig()
    output: Path = Field(
        Path("runs/defended"), description="Folder for adapter, record and report."
    )
    merge: bool = Field(
        False,
        description="Also write merged/: one plain transformers model, the adapter folded in.",
    )
    push_to_hub: str | None = Field(
        None,
        description="Repository to upload model and card to (user/name).",
        exclude=True,
    )
    resume: bool = Field(False, description=RESUME)


class EvaluateRun(Gated):
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


class ScanRun(Gated):
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
    sarif: Path | None = Field(
        None, description="Also write what was found to this file, as SARIF 2.1.0.", exclude=True
    )
    output: Path = Field(Path("runs/scan"), description="Folder for candidates.json.")
    resume: bool = Field(False, description=RESUME)


class DemoRun(Answering):
    """Where the demonstration goes; its sizes are fixed."""

    output: Path = Field(Path("runs/demo"), description="Folder for models, records and report.")


def unread_sections(chosen: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The sections and settings that a run does not read, by what was chosen so far.

    Args:
        chosen: Path of a setting -> its values as they were written; what is missing has its
            default.
    """
    defense = (*chosen.get("defense", ()), "w2s")[0]
    unread = set(own_sections()) | set(W2SSettings.model_fields) | {"full"}
    if defense in DEFENSES:
        unread -= sections_of(defense)
        if Need.TEACHER in DEFENSES[defense].needs:
            unread.discard("teacher")
    if (*chosen.get("task", ()), "classification")[0] == "classification":
        unread |= {"generation", "data.target_column"}
    else:
        unread.add("data.label_column")
    adapter = (*chosen.get("adapter.adapter", ()), "lora")[0]
    unread |= {f"adapter.{name}" for name, of in ADAPTER_OWNERS.items() if adapter not in of}
    triggers = {
        trigger
        for section in ("attack", "test")
        for name in ("attack", "trigger", "more_triggers")
        for trigger in chosen.get(f"{section}.{name}", ())
    }
    for section, (attack, _) in ATTACK_SECTIONS.items():
        if attack not in triggers:
            unread |= {f"attack.{section}", f"test.{section}"}
    return frozenset(unread)
