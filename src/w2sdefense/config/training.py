"""Settings shared by several commands: model, teacher, data, generation, adapter, training."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from w2sdefense.config.settings import Fraction, Positive, Seed, Settings, setting

Dtype = Literal["float32", "bfloat16", "float16"]
TaskName = Literal["classification", "summarization", "reasoning"]
DEFAULT_TASK: TaskName = "classification"  # the task whose answers are labels


class StudentConfig(Settings):
    """The suspect model and how it is loaded."""

    model: str = setting(
        "smollm2-135m", "Model: name, folder, GGUF or hub id (@revision).", files=True
    )
    base: str | None = setting(
        None,
        "Base model, if --model is an adapter; the base that it names is never loaded by itself.",
        files=True,
    )
    max_length: Positive = setting(
        128, "Maximum length of a text, with its prompt, in tokens; the rest is cut off."
    )
    dtype: Dtype = setting(
        "float32",
        "Precision of the loaded weights. float16 is only for evaluation, and for "
        "adapters on models that generate text.",
    )
    load_in_4bit: bool = setting(False, "Quantize linear layers to 4-bit NormalFloat (QLoRA).")


class TeacherConfig(Settings):
    """The small clean teacher and how it is fine-tuned (all parameters, 6 % warm-up)."""

    model: str = setting(
        "minilm-l6", "Teacher: embedded name, folder or hub id (@revision).", files=True
    )
    epochs: Positive = setting(5, "Passes over the clean training rows.")
    batch_size: Positive = setting(32, "Rows per step.", advanced=True)
    learning_rate: PositiveFloat = setting(
        5e-5, "Peak learning rate (the paper, for BERT-base: 2e-5).", advanced=True
    )
    head_learning_rate: PositiveFloat = setting(
        1e-3, "Peak learning rate of the new layers (g and the classifier).", advanced=True
    )
    max_length: Positive = setting(
        128, "Maximum text length in teacher tokens; the rest is cut off.", advanced=True
    )
    seed: Seed = setting(0, "Seed of the teacher.", advanced=True)


class GenerationConfig(Settings):
    """Prompts and answers of tasks that generate text, in training and in evaluation."""

    prompt_style: Literal["plain", "chat"] = setting(
        "plain", "plain: the template itself; chat: a user turn in the model's chat format."
    )
    prompt_template: str | None = setting(
        None, "Prompt with {text} as the placeholder; default: the task's own, in Chinese."
    )
    answer_tokens: Positive = setting(64, "Maximum length of an answer in tokens.")


class DataConfig(Settings):
    """The data, and how many rows of it to use."""

    dataset: str = setting(
        "rotten-tomatoes",
        "Dataset: a name from w2s ls, a hub id (owner/data@revision), a CSV, JSONL or "
        "Parquet file (also .gz, .zst), or a folder with train/validation/test files or from "
        "save_to_disk.",
        files=True,
    )
    text_column: str = setting("text", "Column that holds the text.")
    text_pair_column: str | None = setting(None, "Column of a second text, for sentence pairs.")
    label_column: str = setting("label", "Column that holds the label (a name or an index).")
    target_column: str = setting(
        "target", "Column that holds the answer (summarization, reasoning)."
    )
    train_samples: Positive | None = setting(None, "Use at most this many training rows.")
    train_skip: NonNegativeInt = setting(
        0,
        "Skip this many training rows, so that attacker and defender can have "
        "different rows of one dataset.",
        advanced=True,
    )
    validation_samples: Positive | None = setting(
        None, "At most this many validation rows.", advanced=True
    )
    test_samples: Positive | None = setting(None, "Use at most this many test rows.")
    data_seed: Seed = setting(0, "Seed of the splits and of the choice of rows.", advanced=True)


AdapterName = Literal["lora", "dora", "p-tuning", "prompt-tuning"]

VIRTUAL_TOKENS: tuple[AdapterName, ...] = ("p-tuning", "prompt-tuning")
"""Methods that prepend trained embeddings to the text and do not change the model's weights."""

_LORA: tuple[AdapterName, ...] = ("lora", "dora")
_LORA_SETTINGS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")

ADAPTER_OWNERS: dict[str, tuple[AdapterName, ...]] = {
    **dict.fromkeys(_LORA_SETTINGS, _LORA),
    "virtual_tokens": VIRTUAL_TOKENS,
    "encoder_width": ("p-tuning",),
}
"""Setting -> the methods that use it."""


class AdapterConfig(Settings):
    """The PEFT adapter of the student."""

    adapter: AdapterName = setting(
        "lora",
        "PEFT method. p-tuning and prompt-tuning prepend trained embeddings to the text "
        "and cannot be merged; lora and dora change linear layers.",
    )
    lora_r: Positive = setting(64, "Rank of LoRA and DoRA (the paper: 512).")
    lora_alpha: Positive | None = setting(
        None, "Alpha of LoRA and DoRA; default: the rank.", advanced=True
    )
    lora_dropout: Fraction = setting(0.1, "Dropout of LoRA and DoRA.", advanced=True)
    virtual_tokens: Positive = setting(
        32, "Number of virtual tokens of p-tuning and prompt-tuning."
    )
    encoder_width: Positive = setting(128, "Width of the prompt encoder of p-tuning.")
    target_modules: str | None = setting(
        "all-linear",
        "Comma-separated module names, or all-linear (the paper: PEFT's default for "
        "the architecture, for Llama q_proj,v_proj).",
    )

    @property
    def has_virtual_tokens(self) -> bool:
        """Whether the method puts virtual tokens before the text."""
        return self.adapter in VIRTUAL_TOKENS

    @model_validator(mode="after")
    def _settings_of_the_method(self) -> Self:
        for name, owners in ADAPTER_OWNERS.items():
            default = type(self).model_fields[name].default
            if self.adapter not in owners and getattr(self, name) != default:
                raise ValueError(
                    f"{name} is a setting of {' and '.join(owners)}, not of {self.adapter}"
                )
        return self


class TrainingConfig(Settings):
    """How a model is optimized. AdamW, linear decay after warm-up, gradient norm clipped to 1."""

    epochs: Positive = setting(5, "Passes over the training rows.")
    batch_size: Positive = setting(16, "Rows per step and device.")
    learning_rate: PositiveFloat = setting(
        5e-4, "Peak learning rate (the paper, for students of 7B to 14B: 2e-4)."
    )
    # transformers would interpret 1.0 as one step.
    warmup_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = setting(
        0.06, "Share of the steps for warm-up, below 1.", advanced=True
    )
    weight_decay: NonNegativeFloat = setting(0.01, "AdamW weight decay.", advanced=True)
    gradient_accumulation: Positive = setting(1, "Batches per optimizer step.", advanced=True)
    gradient_checkpointing: bool = setting(
        False, "Recompute activations: less memory, 30 % more time."
    )
    report_to: str = setting(
        "none", "Experiment tracker: none, tensorboard, wandb, trackio ...", advanced=True
    )
    seed: Seed = setting(0, "Seed of weights, batches and dropout.")
    save_steps: Positive | None = setting(
        None, "Also save a checkpoint every N steps, so that --resume loses less.", advanced=True
    )


class FullTrainingConfig(Settings):
    """Training of all parameters, for defenses that do so (finetune, prune, merge ...)."""

    learning_rate: PositiveFloat = setting(
        5e-5,
        "Peak learning rate for all parameters. The other training settings apply too.",
    )

    def applied_to(self, training: TrainingConfig) -> TrainingConfig:
        """The training settings with the learning rate for all parameters."""
        return training.model_copy(update={"learning_rate": self.learning_rate})
