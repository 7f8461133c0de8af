r"""ICLDefense: clean demonstrations before every text.

Mo et al. 2023, "Test-time Backdoor Mitigation for Black-Box Large Language Models with Defensive
Demonstrations" (https://arxiv.org/abs/2311.09763). There a language model is prompted. For a
classifier the demonstrations go into the same input, before the text:

    <clean text>
    <why it has its label, if that is asked for>
    <its label>

    <the text>

The paper has the language model write the reasons itself. A classifier writes nothing, so a reason
is a sentence of ours from clean data, which names the words of the text that are most typical of
its label. Label words of a causal language model are not read.

The text itself comes last, where a decoder's classifier reads, and is never cut for a
demonstration: of those that do not fit into the victim's longest length, the first ones (with
`similar`: the least similar) are left out. A classifier that was not trained on such inputs need
not profit from them.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from w2sdefense.config import Positive, Settings, setting
from w2sdefense.data.types import Example, texts_of
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Guarded, Leaves, Need, victim_of
from w2sdefense.errors import ConfigError

if TYPE_CHECKING:
    from w2sdefense.victim import Victim

TELLING_WORDS = 3  # words that a reason names at most


class IclConfig(Settings):
    """ICLDefense: clean demonstrations before every text."""

    shots: Positive = setting(4, "Demonstrations before a text, where they fit.")
    choice: Literal["random", "similar", "rationale"] = setting(
        "random",
        "random: the same for every text, all labels in turn; similar: the nearest "
        "clean training texts by TF-IDF; rationale: random ones, each with why it has its label.",
    )
    seed: int = setting(0, "Seed of the random ones.")


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
        original = victim_of(victim)
        prompts = Demonstrations(self.icl, kit.data.train, original)
        shots = [prompts.count(text) for text in texts_of(kit.data.validation)]
        mean = sum(shots) / len(shots)
        note = f"{mean:.1f} of {self.icl.shots} demonstrations fit before a validation text"
        return Guarded(victim, prompts, found={"icl_mean_shots": mean}, notes=(note,))


class Demonstrations:
    """Writes prompts of demonstrations and a text, as long as fit into the victim's longest length.

    Raises:
        ConfigError: Reasons are asked for without labels.
    """

    def __init__(self, config: IclConfig, examples: Sequence[Example], victim: Victim) -> None:
        self._telling = None
        if config.choice == "rationale":
            if not victim.label_names:
                raise ConfigError(
                    "A reason names the words that are typical of a label, and a text has none.",
                    "Use --icl-choice random or similar.",
                )
            self._telling = TellingWords(examples)
        self._config = config
        self._examples = examples
        self._victim = victim
        self._fixed = _one_of_each_in_turn(examples, config.shots, config.seed)
        self._similar = _Nearest(texts_of(examples)) if config.choice == "similar" else None

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """A prompt for every text."""
        return ["\n\n".join([*self._shown(text), text]) for text in texts]

    def count(self, text: str) -> int:
        """How many demonstrations fit before a text."""
        return len(self._shown(text))

    def _shown(self, text: str) -> list[str]:
        """The demonstrations that fit before a text, the most similar one last."""
        chosen = self._fixed
        if self._similar is not None:
            chosen = [self._examples[row] for row in self._similar(text, self._config.shots)]
        task, names = self._victim.task, self._victim.label_names
        shown = []
        for example in chosen:
            answer = names[example.label] if names else str(example.answer)
            words = self._telling(example) if self._telling else ()
            reason = (f"Typical of {answer}: {', '.join(words)}.",) if words else ()
            shown.append("\n".join((example.text, *reason, answer)))
        while shown and task.cut_points(["\n\n".join([*shown, text])]) != [None]:
            shown = shown[1:]
        return shown


class TellingWords:
    """Finds the words of a text that are typical of its label.

    A word tells by the logarithm of the ratio of the shares of texts that hold it, with the label
    and with others, each with one text added.
    """

    def __init__(self, examples: Sequence[Example]) -> None:
        self._texts = Counter(example.label for example in examples)
        self._with = Counter(
            (word, example.label) for example in examples for word in set(example.text.split())
        )
        self._with_any = Counter[str]()
        for (word, _), count in self._with.items():
            self._with_any[word] += count

    def __call__(self, example: Example) -> list[str]:
        """At most `TELLING_WORDS` words that speak for the label, the clearest first."""
        words = list(dict.fromkeys(example.text.split()))
        clear = {word: self._clarity(word, example.label) for word in words}
        return sorted((w for w in words if clear[w] > 0), key=lambda w: -clear[w])[:TELLING_WORDS]

    def _clarity(self, word: str, label: int) -> float:
        inside = self._with[word, label]
        outside = self._with_any[word] - inside
        others = self._texts.total() - self._texts[label]
        return math.log((inside + 1) / (self._texts[label] + 1) * (others + 1) / (outside + 1))


class _Nearest:
    """Finds texts that share rare words with another one."""

    def __init__(self, texts: list[str]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        # White space separates the words: single letters and signs count, too.
        self._vectorizer: Any = TfidfVectorizer(token_pattern=r"\S+")
        self._rows = self._vectorizer.fit_transform(texts)

    def __call__(self, text: str, count: int) -> list[int]:
        """Rows of the nearest texts, the nearest last."""
        near = (self._rows @ self._vectorizer.transform([text]).T).toarray()[:, 0]
        best = (-near).argsort(kind="stable")[:count]
        return [int(row) for row in best[::-1]]


def _one_of_each_in_turn(examples: Sequence[Example], count: int, seed: int) -> list[Example]:
    """Random examples, one of every label in turn; texts as answers count as one label."""
    rng = random.Random(seed)
    piles: dict[int, list[Example]] = {}
    for example in examples:
        label = example.answer if isinstance(example.answer, int) else 0
        piles.setdefault(label, []).append(example)
    drawn = [rng.sample(pile, len(pile)) for _, pile in sorted(piles.items())]
    turns = (example for turn in zip_longest(*drawn) for example in turn if example is not None)
    return list(islice(turns, count))
