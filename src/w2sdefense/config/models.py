"""The model under suspicion, its clean teacher, and how a model is asked for text."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from w2sdefense.config.settings import ADVANCED, FILES, Positive, Settings

Dtype = Literal["float32", "bfloat16", "float16"]
TaskName = Literal["classification", "summarization", "reasoning"]


class StudentConfig(Settings):
    """The model under suspicion and how it is opened."""

    model: str = Field(
        "smollm2-135m",
        description="Model: embedded name, folder, GGUF file or hub id.",
        json_schema_extra=FILES,
    )
    base: str | None = Field(
        None,
        description="Base model that an adapter folder is to be loaded on (never fetched unasked).",
        json_schema_extra=FILES,
    )
    max_length: Positive = Field(
        128,
        description="Longest text (or prompt with it) in tokens; the rest is cut off.",
    )
    dtype: Dtype = Field(
        "float32",
        description="Precision the weights are loaded in. float16 is for models that are not "
        "trained themselves: to measure with, or under an adapter of a model that writes.",
    )
    load_in_4bit: bool = Field(
        False,
        description="Round linear layers to 4-bit NormalFloat; adapters stay in --dtype (QLoRA).",
    )


class TeacherConfig(Settings):
    """The small clean teacher and how it is fine-tuned (all parameters, 6 % warm-up)."""

    model: str = Field(
        "minilm-l6",
        description="Teacher model: embedded name, folder or hub id.",
        json_schema_extra=FILES,
    )
    epochs: Positive = Field(5, description="Passes over the clean training rows.")
    batch_size: Positive = Field(32, description="Rows per step.", json_schema_extra=ADVANCED)
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        5e-5,
        description="Peak learning rate (the paper, for BERT-base: 2e-5).",
        json_schema_extra=ADVANCED,
    )
    head_learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        1e-3,
        description="Peak learning rate of the fresh layers (g and the classifier).",
        json_schema_extra=ADVANCED,
    )
    max_length: Positive = Field(
        128,
        description="Longest text in teacher tokens; the rest is cut.",
        json_schema_extra=ADVANCED,
    )
    seed: int = Field(0, description="Seed of the teacher.", json_schema_extra=ADVANCED)


class GenerationConfig(Settings):
    """How a model is asked for text, in training and in evaluation alike (not classification)."""

    prompt_style: Literal["plain", "chat"] = Field(
        "plain",
        description="plain: the template as it is. chat: as a user's turn in the model's format.",
    )
    prompt_template: str | None = Field(
        None,
        description="Prompt with {text} where the text goes; default: the task's own, in Chinese.",
    )
    answer_tokens: Positive = Field(
        64, description="Longest answer in tokens; what is written stops there."
    )
