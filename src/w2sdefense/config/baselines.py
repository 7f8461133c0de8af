"""The settings of the defenses that W2SDefense is compared with, in the order of `defenses/`.

LoRA and full fine-tuning have none of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w2sdefense.config.settings import Fraction, Positive, Settings


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
    exact: bool = Field(
        False,
        description="Score all words that could reach the threshold. Otherwise one is given up if "
        "it seems to miss it by more than 1.25 of the largest error of that guess on the "
        "validation texts; with --onion-threshold nothing is known of that, and all are scored.",
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
    method: Literal["linear", "slerp", "ties"] = Field(
        "linear",
        description="linear: uniform average; slerp: on the sphere, for two models; ties: of what "
        "they changed in their base, without what is small or contradicts.",
    )
    density: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        0.2, description="Share of its changes that each model keeps, by size (ties)."
    )
    scale: Annotated[float, Field(gt=0.0)] = Field(
        1.0, description="What the merged changes are multiplied with (ties; the paper's lambda)."
    )
    base: str = Field(
        "smollm2-135m",
        description="Model that all were fine-tuned from (ties). Without other models: what a "
        "clean one is fine-tuned from.",
    )


class PsimConfig(Settings):
    """PSIM: a copy learns random labels, and what it is still sure of is refused."""

    adapter: Literal["p-tuning", "lora"] = Field(
        "p-tuning",
        description="PEFT method of the copy; lora takes the settings of --adapter lora.",
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
        None,
        description="CSV, JSONL or Parquet file with the columns original and text, for every test "
        "text, with and without the trigger (see w2s pair).",
    )
    max_length: Positive = Field(128, description="Longest text in the translators' tokens.")

    @model_validator(mode="after")
    def _file_with_engine(self) -> Self:
        if (self.engine == "file") != (self.file is not None):
            raise ValueError("engine file and a file go together")
        return self


class ScpdConfig(Settings):
    """SCPD: every text is paraphrased into another syntax; by default by the embedded rules."""

    paraphraser: str | None = Field(
        None, description="Sequence-to-sequence model that paraphrases: folder or hub id."
    )
    prefix: str = Field(
        "", description='What the paraphraser wants before every text, for example "paraphrase: ".'
    )
    file: Path | None = Field(
        None,
        description="Instead: CSV, JSONL or Parquet file with the columns original and text, for "
        "every test text, with and without the trigger (see w2s pair).",
    )
    max_length: Positive = Field(128, description="Longest text in the paraphraser's tokens.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.paraphraser is not None and self.file is not None:
            raise ValueError("paraphrases come from a model or from a file, not from both")
        return self


class IclConfig(Settings):
    """ICLDefense: clean demonstrations before every text."""

    shots: Positive = Field(4, description="Demonstrations before a text, where they fit.")
    choice: Literal["random", "similar", "rationale"] = Field(
        "random",
        description="random: the same for every text, all labels in turn; similar: the nearest "
        "clean training texts by TF-IDF; rationale: random ones, each with why it has its label.",
    )
    file: Path | None = Field(
        None,
        description="Rationales in a CSV, JSONL or Parquet file: original (a training text) and "
        "text (why). Default: the words that are most typical of the label in clean text.",
    )
    seed: int = Field(0, description="Seed of the random ones.")

    @model_validator(mode="after")
    def _file_with_rationale(self) -> Self:
        if self.file is not None and self.choice != "rationale":
            raise ValueError("a file is for the choice rationale only")
        return self
