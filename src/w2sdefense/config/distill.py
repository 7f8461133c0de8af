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


class InsertionConfig(Settings):
    """Random pieces put into the clean texts, which the teacher is asked about as well."""

    rate: Fraction = Field(
        0.0, description="Share of the texts that get one; 0 leaves them out, as in the paper."
    )
    phrases: Fraction = Field(
        0.3,
        description="Share of those that get a phrase of another text; the others get one to three "
        "pieces of random letters or tokens.",
    )


class WordingConfig(Settings):
    """Other wordings of the prompt that all clean texts stand in, if they stand in one."""

    rate: Fraction = Field(
        0.5,
        description="Share of the texts whose prompt (what all of them begin and end with) is "
        "worded otherwise, since a trigger may be a prompt. 0 leaves it as it is.",
    )


class SoftTriggerConfig(Settings):
    """Soft triggers: embeddings that ascend on the loss and stand in for the unknown trigger."""

    per_label: Annotated[int, Field(ge=0)] = Field(
        0,
        description="How many soft triggers are kept for each label; 0 leaves them out, as in the "
        "paper.",
    )
    tokens: Positive = Field(3, description="Embedding vectors in one soft trigger.")
    rate: Fraction = Field(
        0.8, description="Share of the texts of other labels than its own that hold one."
    )
    step: Annotated[float, Field(gt=0.0)] = Field(
        0.3, description="Length of an ascent step, in lengths of a typical token embedding."
    )
    restart: Positive = Field(40, description="Every so many steps one starts afresh.")
