"""How a model is optimized, whatever it is trained for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from w2sdefense.config.settings import ADVANCED, Positive, Settings


class TrainingConfig(Settings):
    """How a model is optimized. AdamW, linear decay after warm-up, gradient norm clipped to 1."""

    epochs: Positive = Field(5, description="Passes over the training rows.")
    batch_size: Positive = Field(16, description="Rows per step and device.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        5e-4, description="Peak learning rate (the paper, for students of 7B to 14B: 2e-4)."
    )
    # transformers takes 1.0 as a number of steps: one.
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.06,
        description="Share of the steps that warm up, below 1.",
        json_schema_extra=ADVANCED,
    )
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(
        0.01, description="AdamW weight decay.", json_schema_extra=ADVANCED
    )
    gradient_accumulation: Positive = Field(
        1, description="Batches summed up before a step.", json_schema_extra=ADVANCED
    )
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations: less memory, 30 % more time.",
    )
    report_to: str = Field(
        "none",
        description="Tracker: none, tensorboard, wandb, trackio ...",
        json_schema_extra=ADVANCED,
    )
    seed: int = Field(0, description="Seed of weights, batches and dropout.")
    save_steps: Positive | None = Field(
        None,
        description="Also save a checkpoint every so many steps (resume loses less).",
        json_schema_extra=ADVANCED,
    )


class FullTrainingConfig(Settings):
    """Training of all parameters, where a defense does that (finetune, prune, merge ...)."""

    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        5e-5,
        description="Peak learning rate where all parameters are trained. Epochs, batch size and "
        "the rest are those of the training.",
    )

    def applied_to(self, training: TrainingConfig) -> TrainingConfig:
        """Settings of a training with the rate for all parameters."""
        return training.model_copy(update={"learning_rate": self.learning_rate})
