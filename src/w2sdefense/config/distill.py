"""The W2SDefense loss, and what may stand in for the unknown trigger while it is minimized.

The search for triggers, which is the default, has its settings in `scan.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from w2sdefense.config.settings import ADVANCED, Fraction, Positive, Settings


class DistillConfig(Settings):
    """The W2SDefense loss: alpha * CE + beta * KD + gamma * FA (paper, Section 4)."""

    alpha: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Weight of the cross entropy.")
    beta: Annotated[float, Field(ge=0.0)] = Field(
        0.5, description="Weight of the logit distillation."
    )
    gamma: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="Weight of the feature alignment."
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(
        2.0,
        description="Softmax temperature of KD.",
        json_schema_extra=ADVANCED,
    )
    alignment: Literal["paper", "release"] = Field(
        "paper",
        description="paper: Eqs. 11-12, one feature per text. release: what the authors' published "
        "script computes (last sample of the batch against every token position, ReLU after g).",
    )
    feature_scale: Literal["none", "unit"] = Field(
        "unit",
        description="Scale of the two features before they are compared: none (Eq. 12 to the "
        "letter) or unit (both divided by their norms). With alignment release it changes nothing.",
        json_schema_extra=ADVANCED,
    )
    student_rows: Positive | None = Field(
        None,
        description="Training rows for the student, a stratified sample; the teacher, which is "
        "cheaper, learns from all. Default: all.",
        json_schema_extra=ADVANCED,
    )


class WordingConfig(Settings):
    """Other wordings of the prompt that all clean texts stand in, if they stand in one."""

    rate: Fraction = Field(
        0.5,
        description="Share of the texts whose prompt (what all of them begin and end with) is "
        "worded otherwise, since a trigger may be a prompt. 0 leaves it as it is.",
    )


class DecoyConfig(Settings):
    """Decoys: backdoors of our own that are planted first and unlearned with the unknown one."""

    per_label: Annotated[int, Field(ge=0)] = Field(
        4,
        description="Decoys for each label, of four kinds; 0 plants none.",
    )
    held_out: Annotated[int, Field(ge=0)] = Field(
        1,
        description="Sentences and frames for each label that are planted and not unlearned: what "
        "is left of them tells what is left of a trigger that nobody knows.",
        json_schema_extra=ADVANCED,
    )
    rate: Fraction = Field(
        0.5,
        description="Share of the training texts that carry a decoy while it is unlearned.",
        json_schema_extra=ADVANCED,
    )
    plant: bool = Field(
        True,
        description="Plant the decoys into the model first; otherwise they are strange text only.",
        json_schema_extra=ADVANCED,
    )
