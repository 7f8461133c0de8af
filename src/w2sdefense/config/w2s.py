"""The settings of W2SDefense, of the search for triggers, and of how the former are chosen."""

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
        "paper: Eqs. 11-12, one feature per text. release: what the authors' published "
        "script computes (last sample of the batch against every token position, ReLU after g).",
    )
    feature_scale: Literal["none", "unit"] = setting(
        "unit",
        "Scale of the two features before they are compared: none (Eq. 12 to the "
        "letter) or unit (both divided by their norms). With alignment release it changes nothing.",
        advanced=True,
    )
    student_rows: Positive | None = setting(
        None,
        "Training rows for the student, a stratified sample; the teacher, which is "
        "cheaper, learns from all. Default: all.",
        advanced=True,
    )


class DecoyConfig(Settings):
    """Decoys: backdoors of our own that are planted first and unlearned with the unknown one."""

    per_label: NonNegativeInt = setting(2, "Decoys for each label; 0 plants none.")
    found: Path | None = setting(
        None,
        "Folder of a `w2s scan`: the triggers that it found are unlearned instead of decoys.",
        files=True,
    )
    rate: Fraction = setting(
        0.5, "Share of the training texts that carry a decoy while it is unlearned.", advanced=True
    )
    plant: bool = setting(
        True,
        "Plant the decoys into the model first; otherwise they are strange text only.",
        advanced=True,
    )

    @property
    def plants(self) -> bool:
        """Whether backdoors are put into the model; what a search found is in it already."""
        return self.plant and self.per_label > 0 and self.found is None


Kind = Literal["letters", "words", "symbols", "names", "characters"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of candidates, in the order in which they are tried."""


class ScanConfig(Settings):
    """A search for text that fires a backdoor, on clean training text."""

    fine_tuned_from: str | None = setting(
        None,
        "Model that the suspect was fine-tuned from: folder, hub id or embedded name. "
        "What the training changed most is then tried first. Default: what the card names, if it "
        "is here and its weights agree.",
        files=True,
    )
    base_tokens: Positive = setting(
        64, "Tokens that the training changed most to try first, if the base is known."
    )
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = setting(
        KINDS,
        "Kinds of candidates to try: letters, words, symbols, names, or characters "
        "(of Chinese and Japanese, if the texts are written in them); may be given more than once.",
    )
    group_size: Positive = setting(16, "Candidates that are tried in one text.")
    singles: Positive = setting(192, "Best candidates to try singly in real texts.")
    rounds: Positive = setting(6, "Rounds of small changes to the best of them.")
    survivors: Positive = setting(32, "Candidates that are changed in a round.")
    mutations: Positive = setting(96, "Changes that are tried in a round.")
    probes: Positive = setting(48, "Short clean texts that candidates are put into.")
    proof_texts: Positive = setting(8, "Texts that the last choice is made on.")
    kept: Positive = setting(24, "Candidates to keep for each label.")


class TaughtSettings(Settings):
    """A model, data, and the teacher that is fitted on them."""

    student: StudentConfig = StudentConfig()
    data: DataConfig = DataConfig()
    teacher: TeacherConfig = setting(TeacherConfig(), prefix="teacher")
    teacher_folder: Path | None = setting(
        None, "Keep the teacher here and use it again; default: teacher/ below the output."
    )


class W2SSettings(TaughtSettings):
    """The sections that a training of W2SDefense reads: what `defend` and `tune` share."""

    distill: DistillConfig = DistillConfig()
    decoys: DecoyConfig = setting(DecoyConfig(), prefix="decoys")
    adapter: AdapterConfig = AdapterConfig()
    training: TrainingConfig = TrainingConfig()


def search_span(text: str) -> tuple[float, float]:
    """The two ends of `LOW:HIGH`, or one number twice; a ValueError if no logarithm fits."""
    low, colon, high = text.partition(":")
    try:
        ends = float(low), float(high if colon else low)
    except ValueError:
        raise ValueError(f"{text!r} is neither LOW:HIGH nor a number") from None
    if not 0 <= ends[0] <= ends[1] < float("inf"):
        raise ValueError(f"{text!r} does not go up from 0 or more")
    if ends[0] == 0 < ends[1]:
        raise ValueError(
            f"{text!r}: a span begins above 0, because it is searched by its logarithm"
        )
    return ends


def _checked(text: str) -> str:
    search_span(text)
    return text


Span = Annotated[str, AfterValidator(_checked)]


class SignalConfig(Settings):
    """The signal without a trigger, measured with the candidate triggers of a search."""

    pieces: Positive = setting(8, "Best candidate triggers of each label.")
    texts: Positive = setting(
        32, "Clean validation texts of other labels that each of them is put into."
    )


class TuneConfig(Settings):
    """What is searched; LOW:HIGH is a span, one number is kept."""

    trials: Positive = setting(12, "Students to train; more of them can be asked later.")
    tolerance: Fraction = setting(
        0.01, "Clean validation accuracy that may be given up for the signal."
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
            raise ValueError("a temperature is above 0")
        texts = (self.alpha, self.beta, self.gamma, self.temperature)
        spans = [search_span(text) for text in texts if text is not None]
        if not self.lora_r and all(low == high for low, high in spans):
            raise ValueError("there is nothing to search: give a span, LOW:HIGH")
        return self
