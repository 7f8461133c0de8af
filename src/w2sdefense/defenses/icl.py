r"""ICLDefense: clean demonstrations before every text.

Mo et al. 2023, "Test-time Backdoor Mitigation for Black-Box Large Language Models with Defensive
Demonstrations" (https://arxiv.org/abs/2311.09763). The paper prompts a language model. Here the
demonstrations go into the input of the victim, before the text:

    <clean text>
    <its label>

    <the text>

All texts get the same demonstrations: random ones that cycle through the labels. The paper's other
two strategies (similar texts, and reasoning that the model writes itself) are not implemented, nor
are label words of a causal language model. The text comes last, because a decoder's classifier
reads the last position. It is never cut to make room: if not all demonstrations fit into the
victim's maximum length, the first ones are dropped. A classifier that was not trained on such
inputs may not benefit from them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, ClassVar

from w2sdefense.config import Positive, Seed, Settings, setting
from w2sdefense.data.types import Example, texts_of
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Guarded, Leaves, Need, victim_of

if TYPE_CHECKING:
    from w2sdefense.victim import Victim


class IclConfig(Settings):
    """ICLDefense: clean demonstrations before every text."""

    shots: Positive = setting(4, "Demonstrations before a text, where they fit.")
    seed: Seed = setting(0, "Seed of their choice.")


@dataclass(frozen=True)
class IclDefense(Defense):
    """Shows the model clean demonstrations before every text."""

    icl: IclConfig = field(default_factory=IclConfig)

    name: ClassVar[str] = "icl"
    title: ClassVar[str] = "ICLDefense"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA,)
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Put the demonstrations before every text."""
        prompts = Demonstrations(self.icl, kit.data.train, victim_of(victim))
        shots = [len(prompts.before(text)) for text in texts_of(kit.data.validation)]
        mean = sum(shots) / len(shots)
        note = f"{mean:.1f} of {self.icl.shots} demonstrations fit before a validation text"
        return Guarded(victim, prompts, found={"icl_mean_shots": mean}, notes=(note,))


class Demonstrations:
    """Builds prompts from the demonstrations that fit, followed by the text."""

    def __init__(self, config: IclConfig, examples: Sequence[Example], victim: Victim) -> None:
        self._task, names = victim.task, victim.label_names
        self._shown = [
            f"{example.text}\n{names[example.label] if names else example.answer}"
            for example in _one_of_each_in_turn(examples, config.shots, config.seed)
        ]

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """A prompt for every text."""
        return ["\n\n".join([*self.before(text), text]) for text in texts]

    def before(self, text: str) -> list[str]:
        """The demonstrations that fit before a text."""
        shown = self._shown
        while shown and self._task.cut_points(["\n\n".join([*shown, text])]) != [None]:
            shown = shown[1:]
        return shown


def _one_of_each_in_turn(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Random examples that cycle through the labels; all text answers count as one label."""
    rng = random.Random(seed)
    piles: dict[int, list[Example]] = {}
    for example in examples:
        label = example.answer if isinstance(example.answer, int) else 0
        piles.setdefault(label, []).append(example)
    drawn = [rng.sample(pile, len(pile)) for _, pile in sorted(piles.items())]
    turns = (example for turn in zip_longest(*drawn) for example in turn if example is not None)
    return list(islice(turns, count))
