"""Settings of the search for triggers; see `scan/`."""

from __future__ import annotations

from pydantic import Field

from w2sdefense.config.settings import FILES, Fraction, Positive, Settings


class ScanConfig(Settings):
    """A search for pieces of text that fire a backdoor, on clean training text."""

    fine_tuned_from: str | None = Field(
        None,
        description="Model that the suspect was fine-tuned from, if you know it: folder, hub id or "
        "embedded name. The words whose embeddings moved most are then tried first.",
        json_schema_extra=FILES,
    )
    moved: Positive = Field(64, description="How many of those words are tried, if that is named.")
    suspects: Positive = Field(24, description="Pieces to keep for each label.")
    first: Positive = Field(1400, description="Pieces to begin with.")
    rounds: Positive = Field(8, description="Rounds of small changes to the best of them.")
    parents: Positive = Field(32, description="Pieces that are changed in a round.")
    children: Positive = Field(96, description="Changes that are tried in a round.")
    probes: Positive = Field(48, description="Short clean texts that pieces are put into.")
    proof_texts: Positive = Field(8, description="Texts that the last choice is made on.")


class ScanTrainingConfig(ScanConfig):
    """The same search, and how often what it found is put into the texts of a training."""

    rate: Fraction = Field(
        0.5, description="Share of the clean texts that get a suspect piece; 0 does not search."
    )
