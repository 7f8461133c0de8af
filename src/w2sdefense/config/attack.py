"""A backdoor: its trigger, its target, and how many rows carry it.

Whether triggers fit together is checked here; whether the target is one of the labels is known only
when the data are there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from w2sdefense.config.settings import Positive, Settings

Place = Literal["random", "start", "end"]
AttackName = Literal["badnet", "insent", "synattack", "proattack"]
TEXT_SLOT = "{text}"


def _require_slot(name: str, template: str) -> None:
    if template.count(TEXT_SLOT) != 1:
        raise ValueError(f"{name} must hold {TEXT_SLOT} exactly once")


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
        description="CSV, JSONL or Parquet file of texts that were paraphrased before (columns "
        "original and text; see w2s pair); may be given more than once. Other texts cannot carry "
        "the trigger.",
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
        None,
        description="The same as a share of the training rows; one of the two. Default: 0.25, but "
        "no more than half of the rows that can carry the trigger (clean-label: those of the "
        "target label).",
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
