"""What ONION's scores cost: all variants of a text together, against every variant by itself.

    python benchmarks/onion.py --output benchmarks/results/onion.json

Four ways of finding the suspicious words of the same texts, with SmolLM2-135M as the scorer in
float32; everything is embedded. The texts are review sentences of Rotten Tomatoes and beginnings
(90 words) of IMDB reviews; each holds a rare word.

    alone      one forward pass for every variant, the loss as `transformers` computes it
    together   `Scorer.suspicion`: shared beginnings once, the rest in batches; every f_i
    exact      the same with a threshold: what certainly cannot reach it is given up
    dropping   as the defense does it: what seems to miss it by a margin is given up; the margin is
               1.25 of the largest errors on clean texts, which are other ones and are scored whole
               (`margin_seconds`, once for a defense)

The threshold is the score that a given share of the words reaches, by the first way. A way must
drop the same words as the first; the largest difference between scores is recorded. The ways take
turns text group by text group, so that other work on the machine meets all of them. Tokenization
counts, opening the model does not. Other scorers and accelerators are not measured. Times on a
machine that does other work are worth little: the load is recorded, and ratios of CPU time stand
beside those of the clock.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from w2sdefense.cli.display import Display
from w2sdefense.config import DataConfig
from w2sdefense.data import load_dataset
from w2sdefense.defenses.onion import SAFETY, drop_words
from w2sdefense.evaluation.provenance import Clock
from w2sdefense.io import write_json
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.perplexity import Scorer

RARE = ("cf", "mn", "bb", "tq")
LONGEST = 90
"""Words of a review that are kept."""

GROUP = 32
"""Texts that are scored together."""

Scores = list[list[float]]


class _Timer:
    """Time of the clock and of the processor, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}

    def time(self, way: str, work: Callable[..., Scores], *given: Any) -> Scores:
        began = time.perf_counter(), time.process_time()
        found = work(*given)
        for kept, now, start in zip(
            (self.seconds, self.cpu_seconds),
            (time.perf_counter(), time.process_time()),
            began,
            strict=True,
        ):
            kept[way] = kept.get(way, 0.0) + now - start
        return found


def score_alone(model: Any, tokenizer: Any, words: list[str]) -> list[float]:
    """f_i of every word, one forward pass for each variant and one for the whole text."""

    def perplexity(text: str) -> float:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([[tokenizer.bos_token_id, *tokens]])
        with torch.inference_mode():
            return math.exp(float(model(input_ids=ids, labels=ids).loss))

    whole = perplexity(" ".join(words))
    return [whole - perplexity(" ".join(words[:i] + words[i + 1 :])) for i in range(len(words))]


def make_texts(dataset: str, count: int) -> list[list[str]]:
    """Words of test texts with a rare word at a random inner place."""
    rng = random.Random(0)
    texts = []
    for example in load_dataset(DataConfig(dataset=dataset, test_samples=count)).test:
        words = example.text.split()[:LONGEST]
        words.insert(rng.randint(1, max(1, len(words) - 1)), rng.choice(RARE))
        texts.append(words)
    return texts


def measure(dataset: str, count: int, clean: int, share: float, display: Display) -> dict[str, Any]:
    """Time the four ways on texts of one dataset and compare what they find."""
    model, tokenizer = load_causal_lm("smollm2-135m")
    scorer = Scorer(model, tokenizer, "smollm2-135m", max_length=2 * LONGEST)
    texts = make_texts(dataset, count)
    groups = [texts[start : start + GROUP] for start in range(0, len(texts), GROUP)]
    scorer.suspicion([["warm", "up"]])
    timer = _Timer()
    data = load_dataset(DataConfig(dataset=dataset, validation_samples=clean))
    known = [example.text.split()[:LONGEST] for example in data.validation]
    timer.time("margin", scorer.suspicion, known)
    margins = [SAFETY * error for error in scorer.largest_errors]

    advance = display.texts(f"{dataset}, one by one", len(texts))

    def alone(group: list[list[str]]) -> Scores:
        scores = []
        for words in group:
            scores.append(score_alone(model, tokenizer, words))
            advance(1)
        return scores

    found: dict[str, Scores] = {way: [] for way in ("alone", "together", "exact", "dropping")}
    for group in groups:
        found["alone"] += timer.time("alone", alone, group)
        found["together"] += timer.time("together", scorer.suspicion, group)
    ranked = sorted((score for text in found["alone"] for score in text), reverse=True)
    # Between two scores, so that the last digit of one decides nothing.
    place = max(1, round(share * len(ranked)))
    threshold = (ranked[place - 1] + ranked[place]) / 2
    for group in groups:
        found["exact"] += timer.time("exact", scorer.suspicion, group, threshold)
        found["dropping"] += timer.time("dropping", scorer.suspicion, group, threshold, margins)
    return {
        "dataset": dataset,
        "texts": len(texts),
        "words": len(ranked),
        "threshold": threshold,
        "clean_texts_for_the_margin": len(known),
        "margins": margins,
        "margin_seconds": round(timer.seconds.pop("margin"), 2),
        "margin_cpu_seconds": round(timer.cpu_seconds.pop("margin"), 2),
        "words_dropped": sum(score >= threshold for score in ranked),
        "same_words_dropped": {
            way: _kept(texts, scores, threshold) == _kept(texts, found["alone"], threshold)
            for way, scores in found.items()
        },
        "words_scored_whole": {
            way: sum(score > -math.inf for text in scores for score in text)
            for way, scores in found.items()
        },
        "largest_relative_difference": max(
            abs(a - b) / max(1.0, abs(a))
            for one, other in zip(found["alone"], found["together"], strict=True)
            for a, b in zip(one, other, strict=True)
        ),
        "seconds": _rounded(timer.seconds),
        "cpu_seconds": _rounded(timer.cpu_seconds),
        "times_faster": _ratios(timer.seconds),
        "times_faster_by_cpu_time": _ratios(timer.cpu_seconds),
    }


def _kept(texts: list[list[str]], scores: Scores, threshold: float) -> list[str]:
    return [
        drop_words(" ".join(words), found, threshold)
        for words, found in zip(texts, scores, strict=True)
    ]


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {way: round(value, 2) for way, value in seconds.items()}


def _ratios(seconds: dict[str, float]) -> dict[str, float]:
    return {way: round(seconds["alone"] / value, 2) for way, value in seconds.items()}


def main(
    texts: Annotated[int, typer.Option(min=1, help="How many sentences.")] = 48,
    reviews: Annotated[int, typer.Option(min=0, help="How many longer reviews.")] = 4,
    clean: Annotated[int, typer.Option(min=1, help="Clean texts for the margin.")] = 32,
    share: Annotated[float, typer.Option(help="Share of the words that are dropped.")] = 0.05,
    output: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Time ONION's scores against scoring every variant by itself."""
    clock = Clock()
    load_before = os.getloadavg()[0]
    wanted: Sequence[tuple[str, int, int]] = (
        ("rotten-tomatoes", texts, clean),
        ("imdb", reviews, max(1, clean // 8)),
    )
    with Display() as display:
        found = {
            "measured": [
                measure(dataset, count, known, share, display)
                for dataset, count, known in wanted
                if count
            ]
        }
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
