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
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from w2sdefense.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Dtype = Literal["float32", "bfloat16", "float16"]
Place = Literal["random", "start", "end"]
TaskName = Literal["classification", "summarization", "reasoning"]
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
    target_column: str = Field(
        "target", description="Column that holds the answer (summarization, reasoning)."
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


class SynConfig(Settings):
    """SynAttack: who rewrites a text; without any of these the embedded rewriter does."""

    model: str | None = Field(
        None,
        description="Model that paraphrases (sequence to sequence or causal): folder, hub id, or "
        "embedded name.",
    )
    prompt: str = Field(
        "Rewrite the sentence so that it begins with a subordinate clause and a comma, followed by "
        "the main clause. Keep its meaning.\nSentence: {text}\nRewritten sentence:",
        description="What the model is asked, with {text} where the text goes.",
    )
    file: tuple[Path, ...] = Field(
        (),
        description="JSONL file of texts that were paraphrased before (columns original and text; "
        "see w2s pair); may be given more than once. Other texts cannot carry the trigger.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model is not None and self.file:
            raise ValueError("paraphrases come from a model or from files, not from both")
        _require_slot("prompt", self.prompt)
        return self


class ProConfig(Settings):
    """ProAttack: the two prompts, with {text} where the text goes."""

    clean_prompt: str = Field(
        "This sentence has a <mask> sentiment: {text}",
        description="Prompt around text without the trigger, as the model is normally used.",
    )
    poison_prompt: str = Field(
        "The sentiment of this sentence is <mask>: {text}",
        description="Prompt that fires the backdoor.",
    )

    @model_validator(mode="after")
    def _two_templates(self) -> Self:
        _require_slot("clean_prompt", self.clean_prompt)
        _require_slot("poison_prompt", self.poison_prompt)
        if self.clean_prompt == self.poison_prompt:
            raise ValueError("the two prompts are the same")
        return self


TEXT_SLOT = "{text}"


def _require_slot(name: str, template: str) -> None:
    if template.count(TEXT_SLOT) != 1:
        raise ValueError(f"{name} must hold {TEXT_SLOT} exactly once")


AttackName = Literal["badnet", "insent", "synattack", "proattack"]


def attack_kind(trigger: str) -> AttackName:
    """Which attack a trigger stands for: one that is named, or a text.

    Args:
        trigger: The name of an attack, or the text of a trigger. One word makes a badnet, more make
            an insent.
    """
    named: dict[str, AttackName] = {name: name for name in get_args(AttackName)}
    return named.get(trigger, "insent" if len(trigger.split()) > 1 else "badnet")


def check_attacks(
    kind: AttackName, more_triggers: tuple[str, ...], syn: SynConfig, pro: ProConfig
) -> None:
    """Insist that triggers fit together, and that no setting is one of an attack that is not there.

    Raises:
        ValueError: Saying what does not fit.
    """
    if any(not trigger.strip() for trigger in more_triggers):
        raise ValueError("one of more_triggers is empty")
    kinds = {kind, *map(attack_kind, more_triggers)}
    if more_triggers and "proattack" in kinds:
        raise ValueError(
            "proattack changes clean text too, so it cannot be one of several triggers"
        )
    if "synattack" not in kinds and syn != SynConfig():
        raise ValueError("the syn settings are for synattack only")
    if "proattack" not in kinds and pro != ProConfig():
        raise ValueError("the pro settings are for proattack only")


class AttackConfig(Settings):
    """A backdoor: what fires it, what it answers, and how many training rows carry it."""

    attack: AttackName = Field(
        "badnet",
        description="badnet inserts a rare word, insent a whole sentence; synattack rewrites the "
        "text so that a subordinate clause comes first; proattack puts it into another prompt.",
    )
    trigger: str | None = Field(
        None,
        description='Trigger text. Default: "mn" (badnet), "I watched this 3D movie" (insent); the '
        "other two have none.",
    )
    more_triggers: tuple[str, ...] = Field(
        (),
        description="A further trigger for the same target, a text or a named attack; may be given "
        "more than once. Each poisoned row carries one of them.",
    )
    place: Place = Field(
        "random",
        description="Where the trigger goes: a random inner slot as in the paper, start or end.",
    )
    target: str = Field(
        "negative",
        description="Name of the label that triggered text should get; for generation the text "
        "that should come out (default: the task's own).",
    )
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
    syn: SynConfig = Field(
        SynConfig(),
        description="What synattack rewrites a text with.",
        json_schema_extra={"prefix": "syn"},
    )
    pro: ProConfig = Field(
        ProConfig(), description="The prompts of proattack.", json_schema_extra={"prefix": "pro"}
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Self:
        if self.poison_rows is not None and self.poison_rate is not None:
            raise ValueError("give poison_rows or poison_rate, not both")
        return self

    @model_validator(mode="after")
    def _fitting_triggers(self) -> Self:
        if self.trigger is not None and not self.trigger.strip():
            raise ValueError("the trigger is empty")
        if self.trigger is not None and self.attack not in ("badnet", "insent"):
            raise ValueError(f"{self.attack} has no trigger text")
        check_attacks(self.attack, self.more_triggers, self.syn, self.pro)
        return self


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
    max_length: Positive = Field(
        128,
        description="Longest text in tokens (for generation: longest prompt with its text); the "
        "rest is cut off.",
    )
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
