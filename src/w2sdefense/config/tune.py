"""The settings of `w2s tune`: what is searched, how long, and by what it is judged.

No trigger is among them: a defender knows none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from w2sdefense.config.settings import ADVANCED, Fraction, Positive, Settings
from w2sdefense.config.w2s import W2SSettings


def search_span(text: str) -> tuple[float, float]:
    """The two ends of a span; one number is both of them.

    Args:
        text: `LOW:HIGH` or one number.

    Raises:
        ValueError: It is neither, or cannot be searched on a logarithmic scale.
    """
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
    """The signal without a trigger, measured with candidate triggers of a search of its own."""

    pieces: Positive = Field(8, description="Best candidate triggers of each label.")
    texts: Positive = Field(
        32, description="Clean validation texts of other labels that each of them is put into."
    )
    seed: int = Field(
        1,
        description="Seed of the search whose candidates are measured with. It is not that of the "
        "training: a student would be examined with what it was taught.",
    )


class TuneConfig(Settings):
    """What is searched; LOW:HIGH is a span, one number is kept."""

    trials: Positive = Field(12, description="Students to train; more of them can be asked later.")
    tolerance: Fraction = Field(
        0.01, description="Clean validation accuracy that may be given up for the signal."
    )
    stop_below: Fraction = Field(
        0.1,
        description="Stop a trial whose validation accuracy is so much below the best one's at "
        "the same step.",
    )
    seed: int = Field(0, description="Seed of the search.")
    alpha: Span = Field("0.5:5", description="Weight of the cross entropy.")
    beta: Span = Field("0.05:5", description="Weight of the logit distillation.")
    gamma: Span = Field("0.05:5", description="Weight of the feature alignment.")
    temperature: Span | None = Field(
        None, description="Temperature of KD; default: --temperature, not searched."
    )
    lora_r: tuple[Positive, ...] = Field(
        (),
        description="A rank to try; may be given more than once. Default: --lora-r, not searched.",
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


class TuneRun(W2SSettings):
    """Choose the settings of W2SDefense on clean data, without a trigger."""

    tune: TuneConfig = Field(TuneConfig(), json_schema_extra={"prefix": "tune"})
    signal: SignalConfig = Field(
        SignalConfig(), json_schema_extra={**{"prefix": "signal"}, **ADVANCED}
    )
    output: Path = Field(
        Path("runs/tuned"),
        description="Folder for the study and its outcome; the same command goes on there.",
    )

    @model_validator(mode="after")
    def _fitting_settings(self) -> Self:
        if self.signal.seed == self.training.seed:
            raise ValueError("signal.seed is the seed of the training; give it another one")
        if self.tune.lora_r and self.adapter.adapter not in ("lora", "dora"):
            raise ValueError(f"{self.adapter.adapter} has no rank that tune.lora_r could try")
        return self
