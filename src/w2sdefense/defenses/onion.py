"""ONION: drops words that make a text less likely, because they may be triggers.

Qi et al. 2021 (https://arxiv.org/abs/2011.10369). The suspicion score of word i of a text x is

    f_i = PPL(x) - PPL(x without word i)

A word is dropped if f_i reaches a threshold. The threshold is lowered step by step as long as the
victim's accuracy on clean validation text falls by at most `max_loss`. Words are separated by white
space, so a text without white space (Chinese) usually counts as one word and is not changed.
`models/perplexity.py` computes f_i.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from w2sdefense.config import Fraction, Positive, Settings, setting
from w2sdefense.data.types import Answer, Example, texts_of
from w2sdefense.defenses.base import Defended, Defense, DefenseKit, Guarded, Leaves, Need, victim_of

if TYPE_CHECKING:
    from w2sdefense.models.perplexity import Scorer
    from w2sdefense.training.trainer import StepProgress


DROPPED_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Each share gives one threshold to try: the one that drops this share of the clean words."""

TEXTS_PER_STEP = 32


class OnionConfig(Settings):
    """ONION: words that make a text unlikely are dropped."""

    scorer: str = setting(
        "smollm2-135m",
        "Causal language model that scores texts: embedded name, folder or hub id "
        "(the paper: openai-community/gpt2).",
        files=True,
    )
    threshold: float | None = setting(
        None,
        "Drop words whose removal lowers the perplexity by at least this much. "
        "Default: chosen on clean validation text.",
    )
    max_loss: Fraction = setting(
        0.02, "Largest loss of accuracy on clean validation text for that choice."
    )
    validation_texts: Positive = setting(
        200, "Validation texts that the choice looks at; each is scored n + 1 times.", advanced=True
    )
    max_length: Positive = setting(
        128, "Longest text in the scorer's tokens; words after that are kept.", advanced=True
    )


@dataclass(frozen=True)
class Onion(Defense):
    """Drops suspicious words before the model reads a text."""

    onion: OnionConfig = field(default_factory=OnionConfig)

    name: ClassVar[str] = "onion"
    title: ClassVar[str] = "ONION"
    needs: ClassVar[tuple[Need, ...]] = (Need.CLEAN_DATA, Need.LANGUAGE_MODEL)
    leaves: ClassVar[Leaves] = Leaves.NOTHING

    def check(self) -> None:
        """Check that the scorer is available."""
        from w2sdefense.models.checkpoint import resolve

        resolve(self.onion.scorer)

    def apply(self, victim: Defended, kit: DefenseKit) -> Guarded:
        """Choose the threshold, unless one is given, and use the word filter as a guard."""
        from w2sdefense.models.load import load_causal_lm, to_gpu
        from w2sdefense.models.perplexity import Scorer

        model, tokenizer = load_causal_lm(self.onion.scorer)
        scorer = Scorer(to_gpu(model), tokenizer, self.onion.scorer, self.onion.max_length)
        found: dict[str, float | int | str] = {"onion_scorer": self.onion.scorer}
        threshold = self.onion.threshold
        if threshold is None:
            count = min(self.onion.validation_texts, len(kit.data.validation))
            # A random sample, because a file may be sorted by label.
            examples = random.Random(0).sample(kit.data.validation, count)
            scores = _scores(scorer, examples, kit.progress_of("ONION on clean text"))
            threshold, lost = choose_threshold(victim, examples, scores, self.onion.max_loss)
            found |= {"onion_validation_texts": len(examples), "onion_accuracy_lost": lost}
        found["onion_threshold"] = threshold

        def drop(texts: Sequence[str]) -> list[str]:
            scores = scorer.suspicion([text.split() for text in texts], threshold)
            return [drop_words(t, f, threshold) for t, f in zip(texts, scores, strict=True)]

        return Guarded(victim, drop, found=found)


def drop_words(text: str, scores: Sequence[float], threshold: float) -> str:
    """Remove the words whose score f_i reaches a threshold.

    If no word would be left, the least suspicious one stays, because a model needs some input.
    """
    words = text.split()
    kept = [word for word, score in zip(words, scores, strict=True) if score < threshold]
    if len(kept) == len(words):
        return text
    return " ".join(kept) if kept else words[min(range(len(words)), key=lambda i: scores[i])]


def choose_threshold(
    model: Defended, examples: Sequence[Example], scores: Sequence[Sequence[float]], max_loss: float
) -> tuple[float, float]:
    """The lowest threshold with a tolerable loss on clean text.

    Thresholds are lowered step by step until the score falls by more than `max_loss`. Only positive
    ones are tried, because a word with a negative f_i makes its text more likely.

    Returns:
        The threshold (infinite if even the highest costs too much), and the loss of mean score with
        it, which is negative if the score rises.
    """
    from w2sdefense.tasks.base import total_score

    answers: dict[str, Answer] = {}
    task = victim_of(model).task

    def quality(threshold: float) -> float:
        texts = [
            drop_words(example.text, values, threshold)
            for example, values in zip(examples, scores, strict=True)
        ]
        new = [text for text in dict.fromkeys(texts) if text not in answers]
        answers.update(zip(new, (answer.answer for answer in model.predict(new)), strict=True))
        return total_score(task, [answers[text] for text in texts], examples)

    before = quality(math.inf)
    chosen, lost = math.inf, 0.0
    for threshold in _candidates(scores):
        loss = before - quality(threshold)
        if loss > max_loss * len(examples) + 1e-9:
            break
        chosen, lost = threshold, loss
    return chosen, lost / len(examples)


def _candidates(scores: Sequence[Sequence[float]]) -> list[float]:
    """The positive thresholds of `DROPPED_SHARES`, from high to low."""
    values = sorted((value for text in scores for value in text), reverse=True)
    places = {max(1, round(share * len(values))) - 1 for share in DROPPED_SHARES}
    return [values[place] for place in sorted(places) if place < len(values) and values[place] > 0]


def _scores(
    scorer: Scorer, examples: Sequence[Example], progress: StepProgress | None
) -> list[list[float]]:
    words = [text.split() for text in texts_of(examples)]
    scores: list[list[float]] = []
    for start in range(0, len(words), TEXTS_PER_STEP):
        scores += scorer.suspicion(words[start : start + TEXTS_PER_STEP])
        if progress is not None:
            progress(len(scores), len(words), {})
    return scores
