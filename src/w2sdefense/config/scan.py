"""Settings of the search for triggers; see `scan/`."""

from __future__ import annotations

from pydantic import Field, field_validator

from w2sdefense.config.settings import FILES, Fraction, Positive, Settings

KINDS = ("letters", "words", "symbols", "names", "characters")
"""Kinds of candidates, in the order in which they are tried."""


class ScanConfig(Settings):
    """A search for text that fires a backdoor, on clean training text."""

    fine_tuned_from: str | None = Field(
        None,
        description="Model that the suspect was fine-tuned from: folder, hub id or embedded name. "
        "What the training changed most is then tried first. Default: what the card names, if it "
        "is here and its weights agree.",
        json_schema_extra=FILES,
    )
    base_tokens: Positive = Field(
        64, description="Tokens that the training changed most to try first, if the base is known."
    )
    kinds: tuple[str, ...] = Field(
        KINDS,
        min_length=1,
        description="Kinds of candidates to try: letters, words, symbols, names, or characters "
        "(of Chinese and Japanese, if the texts are written in them); may be given more than once.",
    )
    group_size: Positive = Field(16, description="Candidates that are tried in one text.")
    singles: Positive = Field(192, description="Best candidates to try singly in real texts.")
    rounds: Positive = Field(6, description="Rounds of small changes to the best of them.")
    survivors: Positive = Field(32, description="Candidates that are changed in a round.")
    mutations: Positive = Field(96, description="Changes that are tried in a round.")
    probes: Positive = Field(48, description="Short clean texts that candidates are put into.")
    proof_texts: Positive = Field(8, description="Texts that the last choice is made on.")
    kept: Positive = Field(24, description="Candidates to keep for each label.")

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"{', '.join(unknown)} is none of {', '.join(KINDS)}")
        return kinds


class ScanTrainingConfig(ScanConfig):
    """The same search, and how often what it found is put into the texts of a training."""

    rate: Fraction = Field(
        0.5,
        description="Share of the clean texts that get a candidate trigger; 0 does not search.",
    )
