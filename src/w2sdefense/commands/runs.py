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
    """A command that goes on where it was cut off."""

    resume: bool = setting(
        False,
        "Continue what is in the output folder: finished stages are kept, training goes on from "
        "its last checkpoint.",
    )


class Work(Resumed):
    """A command that does something with a model on the data of a task."""

    task: TaskName = setting(
        DEFAULT_TASK,
        "What the model is asked for: a label (classification), or text: summarization (ROUGE), "
        "reasoning (exact numbers). Text needs a causal language model and a column with the "
        "answers.",
    )
    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    generation: GenerationConfig = GenerationConfig()


class Answering(Settings):
    """How a command that measures answers a script; no part of what it measures or records."""

    json_output: bool = setting(
        False,
        "Print the result as JSON (docs/gate.md); progress goes to stderr.",
        exclude=True,
        flag="json",
    )


class Gated(Answering):
    """A command whose exit code says what it found."""

    fail_on: Literal["alive", "suspect", "inconclusive"] | None = setting(
        None, "Exit with 1 (or 3) from this outcome on (docs/gate.md).", exclude=True
    )


class PoisonRun(Answering, Work):
    """Plant a backdoor into a model that you own, to measure defenses on it."""

    proxy: str | None = setting(
        None,
        "Dataset whose training rows are poisoned (the attacker's), if it is not "
        "--dataset itself: any dataset, or paper for the paper's choice (w2s ls). CA and ASR are "
        "measured on --dataset.",
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

    defense: _DefenseName = setting("w2s", "Which defense.")
    full: FullTrainingConfig = setting(FullTrainingConfig(), prefix="full")
    test: TestConfig = TestConfig()
    held_out: NonNegativeInt = setting(
        0,
        "Backdoors of our own for each label that the defense does not know, to see what becomes "
        "of them. Only for defenses that train an adapter.",
    )
    output: Path = setting(Path("runs/defended"), "Folder for adapter, record and report.")
    merge: bool = setting(
        False, "Also write merged/: one plain transformers model, the adapter folded in."
    )
    push_to_hub: str | None = setting(
        None, "Repository to upload model and card to (user/name).", exclude=True
    )


class EvaluateRun(Gated, Work):
    """Measure a model: CA, and with a trigger ASR and the floor without it."""

    test: TestConfig = TestConfig()
    output: Path = setting(Path("runs/evaluated"), "Folder for record, samples and report.")


class ScanRun(Gated, Resumed, TaughtSettings):
    """Search a model for what may fire a backdoor; a trigger need not be known."""

    scan: ScanConfig = ScanConfig()
    scan_seed: Seed = setting(0, "Seed of the search.")
    sarif: Path | None = setting(
        None, "Also write what was found to this file, as SARIF 2.1.0.", exclude=True
    )
    output: Path = setting(Path("runs/scan"), "Folder for candidates.json.")


class DemoRun(Answering):
    """Which backdoor the demonstration removes, and where it goes; its sizes are fixed."""

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
        Path("runs/tuned"), "Folder for the study and its outcome; the same command goes on there."
    )

    @model_validator(mode="after")
    def _fitting_settings(self) -> Self:
        if self.tune.lora_r and self.adapter.adapter not in ("lora", "dora"):
            raise ValueError(f"{self.adapter.adapter} has no rank that tune.lora_r could try")
        return self


class RayConfig(Settings):
    """Ray, which runs several nodes at a time, on one machine or on many."""

    address: str | None = setting(
        None,
        "Address of a cluster (ray://..., host:port, auto); default: with --jobs a "
        "cluster that is started on this machine.",
    )
    gpus: NonNegativeFloat = setting(
        0.0, "GPUs of a node; with 0 it sees none, 0.5 lets two share one."
    )
    memory_gb: PositiveFloat | None = setting(
        None, "Memory in GB that must be free where a node runs."
    )


class BenchRun(Answering):
    """A grid of experiments: a table or a figure of the paper, or a recipe of your own."""

    recipe: str = Field(
        description="table1 to table13, figure2 to figure4, paper for all of these, or a YAML file "
        "of recipes with the name of one behind a colon (mine.yaml:rates).",
        json_schema_extra={"argument": True},
    )
    scale: str = setting(
        "small",
        "small: the embedded models and a limited number of texts. paper: the models "
        "and settings of the paper.",
    )
    student: tuple[str, ...] = setting(
        (), "Students in place of the recipe's; may be given more than once."
    )
    teacher: tuple[str, ...] = setting((), "Teachers in place of the recipe's.")
    dataset: tuple[str, ...] = setting((), "Datasets in place of the recipe's.")
    proxy: tuple[str, ...] = setting(
        (),
        "What the victims are poisoned on: any dataset, paper for the paper's choice, "
        "same for the dataset itself.",
    )
    attack: tuple[str, ...] = setting((), "Attacks in place of the recipe's.")
    method: tuple[str, ...] = setting((), "Methods in place of the recipe's.")
    seeds: tuple[Seed, ...] = setting(
        (), "Seeds of victims, teachers and defenses; a row for each."
    )
    limit: Positive | None = setting(
        None, "Use at most this many rows of every split; a quarter carry the trigger."
    )
    threads: Positive | None = setting(
        None,
        "Threads of each node. It is a part of the settings: another number may change "
        "the last digits. Default: the scale's.",
    )
    jobs: Positive = setting(
        1, "Nodes at a time on this machine; more than one needs the extra ray."
    )
    ray: RayConfig = setting(RayConfig(), prefix="ray")
    output: Path = setting(
        Path("runs/bench"), "Folder of all results; grids share what they have in common there."
    )


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
