"""The settings of `w2s bench`: which grid, how much of it, and on what it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from w2sdefense.config.settings import Positive, Settings


class RayConfig(Settings):
    """Ray, which runs several nodes at a time, on one machine or on many."""

    address: str | None = Field(
        None,
        description="Address of a cluster (ray://..., host:port, auto); default: with --jobs a "
        "cluster that is started on this machine.",
    )
    gpus: Annotated[float, Field(ge=0.0)] = Field(
        0.0, description="GPUs of a node; with 0 it sees none, 0.5 lets two share one."
    )
    memory_gb: Annotated[float, Field(gt=0.0)] | None = Field(
        None, description="Memory in GB that must be free where a node runs."
    )


class BenchRun(Settings):
    """A grid of experiments: a table or a figure of the paper, or a recipe of your own."""

    recipe: str = Field(
        description="table1 to table13, figure2 to figure4, paper for all of these, or a YAML file "
        "of recipes with the name of one behind a colon (mine.yaml:rates).",
        json_schema_extra={"argument": True},
    )
    scale: str = Field(
        "small",
        description="small: the embedded models and a limited number of texts. paper: the models "
        "and settings of the paper.",
    )
    student: tuple[str, ...] = Field(
        (), description="Students in place of the recipe's; may be given more than once."
    )
    teacher: tuple[str, ...] = Field((), description="Teachers in place of the recipe's.")
    dataset: tuple[str, ...] = Field((), description="Datasets in place of the recipe's.")
    proxy: tuple[str, ...] = Field(
        (),
        description="What the victims are poisoned on: any dataset, paper for the paper's choice, "
        "same for the dataset itself.",
    )
    attack: tuple[str, ...] = Field((), description="Attacks in place of the recipe's.")
    method: tuple[str, ...] = Field((), description="Methods in place of the recipe's.")
    seeds: tuple[int, ...] = Field(
        (), description="Seeds of victims, teachers and defenses; a row for each."
    )
    limit: Positive | None = Field(
        None, description="Use at most this many rows of every split; a quarter carry the trigger."
    )
    threads: Positive | None = Field(
        None,
        description="Threads of each node. It is a part of the settings: another number may change "
        "the last digits. Default: the scale's.",
    )
    jobs: Positive = Field(
        1, description="Nodes at a time on this machine; more than one needs the extra ray."
    )
    ray: RayConfig = Field(RayConfig(), json_schema_extra={"prefix": "ray"})
    output: Path = Field(
        Path("runs/bench"),
        description="Folder of all results; grids share what they have in common there.",
    )
