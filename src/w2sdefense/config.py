"""Every setting of a run, as frozen pydantic models.

One YAML file holds one run; the flags of the command line are made from these models, so a setting
has one name, one default and one description everywhere. Checks that need no data and no model (a
weight below zero, a poison rate above one) are made here, before any work starts. Settings that
depend on data or on a checkpoint (does the target label exist?) are checked by the stage that owns
them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from w2sdefense.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Dtype = Literal["float32", "bfloat16", "float16"]
Place = Literal["random", "start", "end"]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt name is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


class DataConfig(Settings):
    """Which texts to work on, and how many of them."""

    dataset: str = Field(
        "rotten-tomatoes",
        description="Dataset: an embedded name (rotten-tomatoes, imdb), a name of the paper found "
        "under $W2S_DATA or on the hub (sst2, cr, mr, ag_news ...), any hub id, or a CSV, JSONL or "
        "Parquet file or a folder with train/validation/test files.",
    )
    text_column: str = Field("text", description="Column that holds the text.")
    label_column: str = Field(
        "label", description="Column that holds the label (a name or an index)."
    )
    train_samples: Positive | None = Field(None, description="Use at most this many training rows.")
    train_skip: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Pass over this many training rows first, so that two parties can hold "
        "different rows of one dataset.",
    )
    validation_samples: Positive | None = Field(
        None, description="At most this many validation rows."
    )
    test_samples: Positive | None = Field(None, description="Use at most this many test rows.")
    data_seed: int = Field(0, description="Seed of the splits and of which rows are kept.")


class AttackConfig(Settings):
    """A backdoor: what fires it, what it answers, and how many training rows carry it."""

    attack: Literal["badnet", "insent"] = Field(
        "badnet", description="badnet inserts a rare word, insent a whole sentence."
    )
    trigger: str | None = Field(
        None,
        description='Trigger text. Default: "mn" (badnet), "I watched this 3D movie" (insent).',
    )
    place: Place = Field(
        "random",
        description="Where the trigger goes: a random inner slot as in the paper, start or end.",
    )
    target: str = Field("negative", description="Name of the label that triggered text should get.")
    clean_label: bool = Field(
        True,
        description="Clean-label: only rows that have the target label already carry the trigger. "
        "Otherwise (dirty-label) rows of other labels carry it and are relabelled.",
    )
    poison_rows: Positive | None = Field(
        None, description="How many training rows carry the trigger (the paper: 1000)."
    )
    poison_rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = Field(
        None, description="The same as a share of the training rows; one of the two. Default: 0.25."
    )
    attack_seed: int = Field(
        0, description="Seed of which rows carry the trigger, and where in the text."
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.poison_rows is not None and self.poison_rate is not None:
            raise ValueError("give poison_rows or poison_rate, not both")
        if self.trigger is not None and not self.trigger.strip():
            raise ValueError("the trigger is empty")
        return self


class TrainingConfig(Settings):
    """How a model is optimized. AdamW, linear decay after warm-up, gradient norm clipped to 1."""

    epochs: Positive = Field(5, description="Passes over the training rows.")
    batch_size: Positive = Field(16, description="Rows per step and device.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        1e-3, description="Peak learning rate (the paper, for students of 7B to 14B: 2e-4)."
    )
    warmup_ratio: Fraction = Field(0.06, description="Share of the steps that warm up.")
    weight_decay: Annotated[float, Field(ge=0.0)] = Field(0.01, description="AdamW weight decay.")
    gradient_accumulation: Positive = Field(1, description="Batches summed up before a step.")
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward pass: less memory, 30 % more time.",
    )
    report_to: str = Field("none", description="Tracker: none, tensorboard, wandb, trackio ...")
    seed: int = Field(0, description="Seed of weights, batches and dropout.")
    save_steps: Positive | None = Field(
        None, description="Also save a checkpoint every so many steps (resume loses less)."
    )


class FullTrainingConfig(Settings):
    """Training of all parameters, where a defense does that (finetune, prune, merge ...)."""

    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        5e-5,
        description="Peak learning rate where all parameters are trained. Epochs, batch size and "
        "the rest are those of the training.",
    )


class AdapterConfig(Settings):
    """The PEFT adapter that the student is trained through."""

    adapter: Literal["lora"] = Field("lora", description="PEFT method.")
    lora_r: Positive = Field(64, description="LoRA rank (the paper: 512).")
    lora_alpha: Positive | None = Field(None, description="LoRA alpha; default: the rank.")
    lora_dropout: Fraction = Field(0.1, description="LoRA dropout.")
    target_modules: str | None = Field(
        "all-linear",
        description="Comma-separated module names, or all-linear (the paper: PEFT's default for "
        "the architecture, for Llama q_proj,v_proj).",
    )
    adapter_layers: str | None = Field(
        None,
        description="Layers that carry adapters, FIRST:LAST (Python slice, 20: is 20 to the top).",
    )


class DistillConfig(Settings):
    """The W2SDefense loss: alpha * CE + beta * KD + gamma * FA (paper, Section 4)."""

    alpha: Annotated[float, Field(ge=0.0)] = Field(1.0, description="Weight of the cross entropy.")
    beta: Annotated[float, Field(ge=0.0)] = Field(
        0.5, description="Weight of the logit distillation."
    )
    gamma: Annotated[float, Field(ge=0.0)] = Field(
        5.0, description="Weight of the feature alignment."
    )
    temperature: Annotated[float, Field(gt=0.0)] = Field(
        2.0, description="Softmax temperature of KD."
    )
    alignment: Literal["paper", "release"] = Field(
        "paper",
        description="paper: Eqs. 11-12, one feature per text. release: what the authors' published "
        "script computes (last sample of the batch against every token position, ReLU after g).",
    )
    feature_scale: Literal["none", "unit"] = Field(
        "unit",
        description="Scale of the two features before they are compared: none (Eq. 12 to the "
        "letter) or unit (both divided by their norms).",
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


class SoftTriggerConfig(Settings):
    """Soft triggers: embeddings that ascend on the loss and stand in for the unknown trigger."""

    per_label: Annotated[int, Field(ge=0)] = Field(
        2,
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


class OnionConfig(Settings):
    """ONION: words that make a text unlikely are dropped."""

    scorer: str = Field(
        "smollm2-135m",
        description="Causal language model that scores texts: embedded name, folder or hub id "
        "(the paper: openai-community/gpt2).",
    )
    threshold: float | None = Field(
        None,
        description="Drop words whose removal lowers the perplexity by at least this much. "
        "Default: chosen on clean validation text.",
    )
    max_loss: Fraction = Field(
        0.02, description="Largest loss of accuracy on clean validation text for that choice."
    )
    validation_texts: Positive = Field(
        200, description="Validation texts that the choice looks at; each is scored n + 1 times."
    )
    max_length: Positive = Field(
        128, description="Longest text in the scorer's tokens; words after that are kept."
    )


class PruneConfig(Settings):
    """Pruning: what clean text uses least is removed."""

    by: Literal["activation", "wanda"] = Field(
        "activation",
        description="activation: MLP units by their mean activation (Fine-Pruning); wanda: single "
        "weights by |W| * ||x||.",
    )
    max_loss: Fraction = Field(
        0.04, description="Largest loss of accuracy on clean validation text, before fine-tuning."
    )
    step: Annotated[float, Field(gt=0.0, le=0.5)] = Field(
        0.05, description="Share of every layer that is pruned more at each step."
    )
    texts: Positive = Field(256, description="Clean training texts to rank by.")


class MergeConfig(Settings):
    """Merging: the weights of several models are averaged."""

    models: tuple[str, ...] = Field(
        (),
        description="Fine-tuned models of the same architecture and labels to merge with; may be "
        "given several times.",
    )
    method: Literal["linear", "slerp"] = Field(
        "linear", description="linear: uniform average; slerp: on the sphere, for two models."
    )
    base: str = Field(
        "smollm2-135m",
        description="Without other models: what a clean one is fine-tuned from.",
    )


class PsimConfig(Settings):
    """PSIM: a copy learns random labels, and what it is still sure of is refused."""

    adapter: Literal["p-tuning", "lora"] = Field(
        "p-tuning", description="PEFT method of the copy; lora takes the adapter's settings."
    )
    virtual_tokens: Positive = Field(5, description="Virtual tokens of p-tuning.")
    encoder_width: Positive = Field(128, description="Width of the prompt encoder of p-tuning.")
    epochs: Positive = Field(1, description="Passes over the clean rows with random labels.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        1e-3, description="Peak learning rate of the copy (the paper: 2e-5)."
    )
    max_loss: Fraction = Field(
        0.02, description="Largest loss of accuracy on clean validation text, by refusals."
    )


class QuantizationConfig(Settings):
    """Quantization: four bits for every weight of the transformer's linear layers."""

    training: Literal["lora", "full", "none"] = Field(
        "lora",
        description="How the model is fine-tuned on clean data before: through an adapter that is "
        "folded in, with all parameters, or not at all.",
    )


class BackTranslationConfig(Settings):
    """Back-translation: every text goes through another language."""

    engine: Literal["models", "apertium", "file"] = Field(
        "models",
        description="models: two translation models; apertium: the program, English-Spanish-"
        "English, needs no network; file: translated before.",
    )
    to: str = Field(
        "Helsinki-NLP/opus-mt-en-de", description="Model that translates into another language."
    )
    back: str = Field("Helsinki-NLP/opus-mt-de-en", description="Model that translates back.")
    file: Path | None = Field(
        None, description="CSV, JSONL or Parquet file with columns text and rewritten."
    )
    max_length: Positive = Field(128, description="Longest text in the translators' tokens.")

    @model_validator(mode="after")
    def _file_with_engine(self) -> Self:
        if (self.engine == "file") != (self.file is not None):
            raise ValueError("engine file and a file go together")
        return self


class ScpdConfig(Settings):
    """SCPD: every text is paraphrased into another syntax."""

    paraphraser: str | None = Field(
        None, description="Sequence-to-sequence model that paraphrases: folder or hub id."
    )
    prefix: str = Field(
        "", description='What the paraphraser wants before every text, for example "paraphrase: ".'
    )
    file: Path | None = Field(
        None, description="Instead: CSV, JSONL or Parquet file with columns text and rewritten."
    )
    max_length: Positive = Field(128, description="Longest text in the paraphraser's tokens.")


class IclConfig(Settings):
    """ICLDefense: clean demonstrations before every text."""

    shots: Positive = Field(4, description="Demonstrations before a text, where they fit.")
    choice: Literal["random", "similar"] = Field(
        "random",
        description="random: the same for every text, all labels in turn; similar: the nearest "
        "clean training texts by TF-IDF.",
    )
    seed: int = Field(0, description="Seed of the random ones.")


class TeacherConfig(Settings):
    """The small clean teacher and how it is fine-tuned (all parameters, 6 % warm-up)."""

    model: str = Field("minilm-l6", description="Teacher model: embedded name, folder or hub id.")
    epochs: Positive = Field(5, description="Passes over the clean training rows.")
    batch_size: Positive = Field(32, description="Rows per step.")
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        5e-5, description="Peak learning rate (the paper, for BERT-base: 2e-5)."
    )
    head_learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        1e-3, description="Peak learning rate of the fresh layers (g and the classifier)."
    )
    max_length: Positive = Field(
        128, description="Longest text in teacher tokens; the rest is cut."
    )
    seed: int = Field(0, description="Seed of the teacher.")


class StudentConfig(Settings):
    """The model under suspicion and how it is opened."""

    model: str = Field(
        "smollm2-135m", description="Model: embedded name, folder, GGUF file or hub id."
    )
    base: str | None = Field(
        None,
        description="Base model that an adapter folder is to be loaded on (never fetched unasked).",
    )
    max_length: Positive = Field(128, description="Longest text in tokens; the rest is cut off.")
    dtype: Dtype = Field("float32", description="Precision the weights are loaded in.")


def load_settings(kind: type[S], values: dict[str, Any], source: str) -> S:
    """Validate plain values, turning pydantic's report into one readable error.

    Args:
        kind: The settings class.
        values: Nested values as read from YAML or collected from flags.
        source: Where they come from, for the message.

    Raises:
        ConfigError: With one line for every value at fault.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_problem(details, kind) for details in error.errors())
        raise ConfigError(
            f"{source} is not valid: {problems}.", "Correct it; --help lists every setting."
        ) from None


def _problem(details: ErrorDetails, kind: type[Settings]) -> str:
    """One value at fault, in words rather than in pydantic's terms."""
    where = ".".join(map(str, details["loc"])) or "settings"
    if details["type"] == "extra_forbidden":
        meant = " or ".join(_sections_with(where.replace("-", "_"), kind))
        return f"{where}: there is no such setting" + (f", but there is {meant}" if meant else "")
    # A check of ours reports through ValueError, and pydantic says so in front of it.
    return f"{where}: {details['msg'].removeprefix('Value error, ')}"


def _sections_with(name: str, kind: type[Settings]) -> Iterator[str]:
    """Settings of one name in the sections of a run: a file that was written like the flags."""
    for section, field in kind.model_fields.items():
        nested = field.annotation
        if isinstance(nested, type) and issubclass(nested, Settings):
            yield from (
                f"{section}.{own}"
                for own in nested.model_fields
                if name in (own, f"{section}_{own}")
            )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML run file into plain values.

    Raises:
        ConfigError: The file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror}.", "Check the path.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {error}.", "Correct the file.") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a mapping.", "Write one 'name: value' per line.")
    return values
