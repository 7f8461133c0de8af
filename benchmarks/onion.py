"""What ONION's scores cost: all variants of a text together, against every variant by itself.

    python benchmarks/onion.py --texts 6 --output benchmarks/results/onion.json

Three ways of finding the suspicious words of the same texts, review sentences of Rotten Tomatoes
that hold a rare word, with SmolLM2-135M as the scorer in float32; everything is embedded:

    alone      one forward pass for every variant, the loss as `transformers` computes it
    together   `Scorer.suspicion`: shared beginnings once, the rest in batches; every f_i
    dropping   the same with a threshold: what cannot reach it is not computed

The threshold is the score that a twentieth of the words reach, by the first way. All three must
drop the same words; the largest difference between scores is recorded. Tokenization counts, opening
the model does not. Longer texts, other scorers and accelerators are not measured. Times on a
machine that does other work are worth little: the load is recorded, and ratios of CPU time stand
beside those of the clock.
"""

from __future__ import annotations

import math
import os
import random
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from w2sdefense.config import DataConfig
from w2sdefense.data import load_dataset
from w2sdefense.defenses.onion import drop_words
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.experiments.display import Display
from w2sdefense.io import write_json
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.perplexity import Scorer

RARE = ("cf", "mn", "bb", "tq")
DROPPED = 0.05
"""Share of the words that are dropped."""


class _Timer:
    """Time of the clock and of the processor since the last stop, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._last = time.perf_counter(), time.process_time()

    def stop(self, way: str) -> None:
        now = time.perf_counter(), time.process_time()
        self.seconds[way] = round(now[0] - self._last[0], 2)
        self.cpu_seconds[way] = round(now[1] - self._last[1], 2)
        self._last = now


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    return {way: round(seconds["alone"] / seconds[way], 2) for way in ("together", "dropping")}


def score_alone(model: Any, tokenizer: Any, words: list[str]) -> list[float]:
    """f_i of every word, one forward pass for each variant and one for the whole text."""

    def perplexity(text: str) -> float:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[tokenizer.bos_token_id, *tokens]])
        with torch.inference_mode():
            return math.exp(float(model(input_ids=ids, labels=ids).loss))

    whole = perplexity(" ".join(words))
    return [whole - perplexity(" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]


def make_texts(count: int) -> list[str]:
    """Test sentences with a rare word at a random inner place."""
    rng = random.Random(0)
    texts = []
    for example in load_dataset(DataConfig(test_samples=count)).test:
        words = example.text.split()
        words.insert(rng.randint(1, max(1, len(words) - 1)), rng.choice(RARE))
        texts.append(" ".join(words))
    return texts


def measure(texts: list[str], display: Display) -> dict[str, Any]:
    """Time the three ways and compare what they find."""
    model, tokenizer = load_causal_lm("smollm2-135m")
    scorer = Scorer(model, tokenizer, "smollm2-135m")
    words = [text.split() for text in texts]
    scorer.suspicion([["warm", "up"]])
    timer = _Timer()
    advance = display.texts("one by one", len(texts))
    alone = []
    for text in words:
        alone.append(score_alone(model, tokenizer, text))
        advance(1)
    timer.stop("alone")
    ranked = sorted((score for text in alone for score in text), reverse=True)
    threshold = ranked[max(1, round(DROPPED * len(ranked))) - 1] - 1e-3
    together = scorer.suspicion(words)
    timer.stop("together")
    dropping = scorer.suspicion(words, at_least=threshold)
    timer.stop("dropping")
    kept = [
        [drop_words(text, scores, threshold) for text, scores in zip(texts, found, strict=True)]
        for found in (alone, together, dropping)
    ]
    pairs = [
        (a, b)
        for one, other in zip(alone, together, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return {
        "texts": len(texts),
        "words": len(ranked),
        "variants_scored_when_dropping": sum(s > -math.inf for text in dropping for s in text),
        "threshold": threshold,
        "words_dropped": sum(len(t.split()) for t in texts) - sum(len(t.split()) for t in kept[0]),
        "same_words_dropped": kept[0] == kept[1] == kept[2],
        "largest_relative_difference": max(abs(a - b) / max(1.0, abs(a)) for a, b in pairs),
        "seconds": timer.seconds,
        "cpu_seconds": timer.cpu_seconds,
        "times_faster": _ratios(timer.seconds),
        "times_faster_by_cpu_time": _ratios(timer.cpu_seconds),
    }


def main(
    texts: Annotated[int, typer.Option(min=1, help="How many texts.")] = 6,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time ONION's scores against scoring every variant by itself."""
    clock = Clock()
    load_before = os.getloadavg()[0]
    with Display() as display:
        found = measure(make_texts(texts), display)
    origin = clock.provenance()
    found |= {
        "machine": {**origin.machine, "load_before": f"{load_before:.2f}"},
        "versions": origin.versions,
        "started": origin.started,
    }
    Console().print_json(data=found)
    if output is not None:
        write_json(output, found)


if __name__ == "__main__":
    typer.run(main)
