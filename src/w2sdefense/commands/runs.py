"""The settings of each command, combined from the sections in `config/` and the catalogs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from w2sdefense.attacks.catalog import OWN_SECTIONS as ATTACK_SECTIONS
from w2sdefense.attacks.catalog import AttackConfig, TestConfig
from w2sdefense.config import (
    ADAPTER_OWNERS,
    DEFAULT_TASK,
    DataConfig,
    FullTrainingConfig,
    GenerationConfig,
    Positive,
    ScanConfig,
    Seed,
    Settings,
    SignalConfig,
    StudentConfig,
    TaskName,
    TaughtSettings,
    TeacherConfig,
    TrainingConfig,
    TuneConfig,
    W2SSettings,
    sections_model,
    setting,
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


class Resumed(Settings):
    """A command that can continue after an interruption."""

    resume: bool = setting(
        False,
        "Continue the run in the output folder: keep finished stages, and continue training from "
        "the last checkpoint.",
    )


class Work(Resumed):
    """A command that runs a model on the data of a task."""

    task: TaskName = setting(
        DEFAULT_TASK,
        "The task: classification (labels), summarization (text, by ROUGE) or reasoning (exact "
        "numbers). The last two need a causal language model and a column with the answers.",
    )
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()


class Answering(Settings):
    """Output settings of commands that measure; they affect neither results nor records."""

    json_output: bool = setting(
        False,
        "Print the result as JSON (docs/gate.md); progress goes to stderr.",
        exclude=True,
        flag="json",
    )


class Gated(Answering):
    """A command whose exit code can depend on its outcome."""

    fail_on: Literal["alive", "suspect", "inconclusive"] | None = setting(
        None, "Exit with 1 (or 3) at this outcome or a worse one (docs/gate.md).", exclude=True
    )


class PoisonRun(Answering, Work):
    """Plant a backdoor into a model that you own, to measure defenses on it."""

    proxy: str | None = setting(
        None,
        "The attacker's dataset, whose training rows are poisoned: any dataset, or paper "
        "for the paper's choice (w2s ls). Default: --dataset, on which CA and ASR are measured.",
        files=True,
    )
    attack: AttackConfig = AttackConfig()
    training: TrainingConfig = TrainingConfig(epochs=2, learning_rate=5e-5)
    output: Path = setting(Path("runs/poisoned"), "Folder for the model and its record.")


class TeachRun(Work):
    """Fine-tune a clean teacher for a student."""

    teacher: TeacherConfig = setting(TeacherConfig(), prefix="teacher")
    alignment: Literal["paper", "release"] = setting(
        "paper", "release: the teacher's classifier reads ReLU(h_t)."
    )
    output: Path = setting(Path("runs/teacher"), "Folder for the teacher.")


class DefendRun(Gated, Work, W2SSettings, _DefenseSections):
    """Clean a model with the clean data that you have, and measure it before and after."""

    defense: _DefenseName = setting("w2s", "The defense.")
    full: FullTrainingConfig = setting(FullTrainingConfig(), prefix="full")
    test: TestConfig = TestConfig()
    held_out: NonNegativeInt = setting(
        0,
        "Held-out decoys for each label: planted, unknown to the defense, and measured after it. "
        "Only for defenses that train an adapter.",
    )
    output: Path = setting(Path("runs/defended"), "Folder for adapter, record and report.")
    merge: bool = setting(
        False, "Also write merged/: a plain transformers model with the adapter merged."
    )
    push_to_hub: str | None = setting(
        None, "Hub repository to upload model and card to (user/name).", exclude=True
    )


class EvaluateRun(Gated, Work):
    """Measure a model: CA, and with a trigger ASR and the floor without it."""

    test: TestConfig = TestConfig()
    output: Path = setting(Path("runs/evaluated"), "Folder for record, samples and report.")


class ScanRun(Gated, Resumed, TaughtSettings):
    """Search a model for triggers of a backdoor."""

    scan: ScanConfig = ScanConfig()
    scan_seed: Seed = setting(0, "Seed of the search.")
    sarif: Path | None = setting(
        None, "Also write the found triggers to this file, as SARIF 2.1.0.", exclude=True
    )
    output: Path = setting(Path("runs/scan"), "Folder for candidates.json.")


class DemoRun(Answering):
    """The backdoor of the demonstration and its output; sizes are fixed."""

    attack: Literal["badnet", "insent"] = setting(
        "badnet", "badnet: the trigger is a word. insent: a sentence that fits the reviews."
    )
    output: Path = setting(Path("runs/demo"), "Folder for models, records and report.")


class TuneRun(Answering, W2SSettings):
    """Choose the settings of W2SDefense on clean data, without a trigger."""

    tune: TuneConfig = setting(TuneConfig(), prefix="tune")
    scan: ScanConfig = setting(ScanConfig(), prefix="scan", advanced=True)
    signal: SignalConfig = setting(SignalConfig(), prefix="signal", advanced=True)
    output: Path = setting(
        Path("runs/tuned"), "Folder for the study and its outcome; rerun the command to continue."
    )

    @model_validator(mode="after")
    def _fitting_settings(self) -> Self:
        if self.tune.lora_r and self.adapter.adapter not in ("lora", "dora"):
            raise ValueError(f"{self.adapter.adapter} has no rank, so tune.lora_r cannot be used")
        return self


class RayConfig(Settings):
    """Ray, for several nodes at a time on one machine or more."""

    address: str | None = setting(
        None,
        "Address of a cluster (ray://..., host:port, auto); default: --jobs above 1 starts "
        "one on this machine.",
    )
    gpus: NonNegativeFloat = setting(
        0.0, "GPUs of each node: 0 hides all GPUs, 0.5 lets two nodes share one."
    )
    memory_gb: PositiveFloat | None = setting(None, "Memory in GB that Ray reserves for each node.")


class BenchRun(Answering):
    """A grid of experiments: a table or a figure of the paper, or a recipe of your own."""

    recipe: str = Field(
        description="table1 to table13, figure2 to figure4, paper for all of these, or a recipe "
        "of a YAML file (mine.yaml:rates).",
        json_schema_extra={"argument": True},
    )
    scale: str = setting(
        "small",
        "small: the embedded models and a limited number of texts; paper: the models "
        "and settings of the paper; tiny: random models, to see that everything runs.",
    )
    student: tuple[str, ...] = setting(
        (), "Students instead of the recipe's; may be given more than once."
    )
    teacher: tuple[str, ...] = setting((), "Teachers instead of the recipe's.")
    dataset: tuple[str, ...] = setting((), "Datasets instead of the recipe's.")
    proxy: tuple[str, ...] = setting(
        (),
        "Datasets to poison victims on: any dataset, paper for the paper's choice, same "
        "for the dataset itself.",
    )
    attack: tuple[str, ...] = setting((), "Attacks instead of the recipe's.")
    method: tuple[str, ...] = setting((), "Methods instead of the recipe's.")
    seeds: tuple[Seed, ...] = setting(
        (), "Seeds of victims, teachers and defenses; a row for each."
    )
    limit: Positive | None = setting(
        None, "Use at most this many rows of every split, and poison at most a quarter of them."
    )
    threads: Positive | None = setting(
        None,
        "Threads of each node. Part of its key, because the number may change the last "
        "digits of results. Default: the scale's.",
    )
    jobs: Positive = setting(
        1, "Nodes at a time on this machine; more than one needs the extra ray."
    )
    ray: RayConfig = setting(RayConfig(), prefix="ray")
    output: Path = setting(Path("runs/bench"), "Folder for results; grids in it share their nodes.")


def teacher_folder_of(run: DefendRun | ScanRun | TuneRun) -> Path:
    """The folder of a run's teacher."""
    return run.teacher_folder or run.output / "teacher"


def unread_sections(chosen: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """The sections and settings that a run ignores, given the chosen values (path -> values)."""
    defense = (*chosen.get("defense", ()), "w2s")[0]
    unread = set(own_sections()) | set(W2SSettings.model_fields) | {"full"}
    if defense in DEFENSES:
        unread -= sections_of(defense)
        if Need.TEACHER in DEFENSES[defense].needs:
            unread.discard("teacher")
    if (*chosen.get("task", ()), DEFAULT_TASK)[0] == DEFAULT_TASK:
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
