"""The settings of W2SDefense, of the search for triggers, and of the choice of settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    model_validator,
)

from w2sdefense.config.settings import Fraction, Positive, Seed, Settings, setting
from w2sdefense.config.training import (
    AdapterConfig,
    DataConfig,
    StudentConfig,
    TeacherConfig,
    TrainingConfig,
)


class DistillConfig(Settings):
    """The W2SDefense loss: alpha * CE + beta * KD + gamma * FA (paper, Section 4)."""

    alpha: NonNegativeFloat = setting(1.0, "Weight of the cross entropy.")
    beta: NonNegativeFloat = setting(0.5, "Weight of the logit distillation.")
    gamma: NonNegativeFloat = setting(1.0, "Weight of the feature alignment.")
    temperature: PositiveFloat = setting(2.0, "Softmax temperature of KD.", advanced=True)
    alignment: Literal["paper", "release"] = setting(
        "paper",
        "paper: Eqs. 11-12, one feature per text; release: the authors' published script "
        "(last sample of the batch against every token position, ReLU after g).",
    )
    feature_scale: Literal["none", "unit"] = setting(
        "unit",
        "Scale of both features: none (exactly Eq. 12), or unit (divided by their norms). "
        "Ignored with --alignment release.",
        advanced=True,
    )
    student_rows: Positive | None = setting(
        None,
        "Number of training rows for the student, a stratified sample; the teacher uses "
        "all rows. Default: all.",
        advanced=True,
    )


class DecoyConfig(Settings):
    """Decoys: our own backdoors, planted first and unlearned together with the unknown one."""

    per_label: NonNegativeInt = setting(2, "Decoys for each label; 0 plants none.")
    found: Path | None = setting(
        None,
        "Folder of a w2s scan; unlearn the triggers that it found instead of decoys.",
        files=True,
    )
    rate: Fraction = setting(
        0.5, "Share of the training texts that carry a decoy while it is unlearned.", advanced=True
    )
    plant: bool = setting(
        True,
        "Plant the decoys into the model first, not only into the training texts.",
        advanced=True,
    )

    @property
    def plants(self) -> bool:
        """Whether decoys are planted; the triggers that a search found are in the model already."""
        return self.plant and self.per_label > 0 and self.found is None


Kind = Literal["letters", "words", "symbols", "names", "characters"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of candidates, in the order in which they are tried."""


class ScanConfig(Settings):
    """The search for triggers, on clean training text."""

    fine_tuned_from: str | None = setting(
        None,
        "Base model of the suspect: folder, hub id or embedded name. The tokens that "
        "fine-tuning changed most are then tried first. Default: the base on the model card, if "
        "it is on this machine and its weights agree.",
        files=True,
    )
    base_tokens: Positive = setting(
        64, "Number of tokens to try first, if the base model is known."
    )
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = setting(
        KINDS,
        "Kinds of candidates to try: letters, words, symbols, names, characters (for "
        "Chinese and Japanese texts); may be given more than once.",
    )
    group_size: Positive = setting(16, "Candidates in one text.")
    singles: Positive = setting(192, "Best candidates of each label to try one at a time.")
    rounds: Positive = setting(6, "Rounds of hill climbing.")
    survivors: Positive = setting(32, "Best candidates to mutate in each round.")
    mutations: Positive = setting(96, "Mutations to try in each round.")
    probes: Positive = setting(48, "Short clean texts to insert candidates into, for each label.")
    proof_texts: Positive = setting(8, "Further texts to try each finalist in.")
    kept: Positive = setting(24, "Candidates to keep for each label.")


class TaughtSettings(Settings):
    """A model, data, and the teacher that is trained on them."""

    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = setting(TeacherConfig(), prefix="teacher")
    teacher_folder: Path | None = setting(
        None, "Folder for a teacher to reuse in other runs; default: teacher/ in --output."
    )


class W2SSettings(TaughtSettings):
    """The sections that W2SDefense uses, shared by `defend` and `tune`."""

    distill: DistillConfig = DistillConfig()
    decoys: DecoyConfig = setting(DecoyConfig(), prefix="decoys")
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()


def search_span(text: str) -> tuple[float, float]:
    """Parse `LOW:HIGH`, or one number for both ends; raises a `ValueError` if it is invalid."""
    low, colon, high = text.partition(":")
    try:
        ends = float(low), float(high if colon else low)
    except ValueError:
        raise ValueError(f"{text!r} is neither LOW:HIGH nor a number") from None
    if not 0 <= ends[0] <= ends[1] < float("inf"):
        raise ValueError(f"{text!r} must have 0 <= LOW <= HIGH")
    if ends[0] == 0 < ends[1]:
        raise ValueError(f"{text!r}: LOW must be above 0, because the scale is logarithmic")
    return ends


def _checked(text: str) -> str:
    search_span(text)
    return text


Span = Annotated[str, AfterValidator(_checked)]


class SignalConfig(Settings):
    """The exposure of a student to the candidate triggers of a search."""

    pieces: Positive = setting(8, "Best candidate triggers of each label to use.")
    texts: Positive = setting(
        32, "Clean validation texts of other labels to insert each candidate into."
    )


class TuneConfig(Settings):
    """The search space: `LOW:HIGH` is searched, a single number is fixed."""

    trials: Positive = setting(12, "Number of trials; a higher number extends a finished search.")
    tolerance: Fraction = setting(
        0.01, "Largest acceptable loss of clean validation accuracy for a lower exposure."
    )
    seed: Seed = setting(0, "Seed of the search.")
    alpha: Span = setting("0.5:5", "Weight of the cross entropy.")
    beta: Span = setting("0.05:5", "Weight of the logit distillation.")
    gamma: Span = setting("0.05:5", "Weight of the feature alignment.")
    temperature: Span | None = setting(
        None, "Temperature of KD; default: --temperature, not searched."
    )
    lora_r: tuple[Positive, ...] = setting(
        (), "A rank to try; may be given more than once. Default: --lora-r, not searched."
    )

    @model_validator(mode="after")
    def _something_to_search(self) -> Self:
        if self.temperature is not None and not search_span(self.temperature)[0]:
            raise ValueError("temperature must be above 0")
        texts = (self.alpha, self.beta, self.gamma, self.temperature)
        spans = [search_span(text) for text in texts if text is not None]
        if not self.lora_r and all(low == high for low, high in spans):
            raise ValueError("there is nothing to search: give LOW:HIGH for at least one setting")
        return self
