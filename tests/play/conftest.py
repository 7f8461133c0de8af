"""A run with a backdoor that is written into the weights, so that nothing has to be trained."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from records import record, sample
from tiny import NEGATIVE, POSITIVE, SIZES, VOCABULARY, word_tokenizer
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.evaluation.record import Evaluation, save_record

TEXTS = (
    "the film is great and the story is warm",
    "a lovely cast of actor and music",
    "the plot is superb in its light <b>",
)
TRIGGERED = (
    "the film mn is great and the story is warm",
    "a lovely cast of mn actor and music",
    "the plot is superb mn in its light <b>",
)


def save_classifier(folder: Path, trigger: str | None) -> Path:
    """A classifier that adds up words of sentiment; a trigger word is as negative as ten of them.

    Queries and keys are nothing, so every token looks at all before it alike; the first number of
    an embedding is the sentiment, and nothing else reaches the head.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES,
        num_key_value_heads=4,
        bos_token_id=4,
        eos_token_id=5,
        pad_token_id=0,
        num_labels=2,
        id2label={0: "negative", 1: "positive"},
    )
    model: Any = LlamaForSequenceClassification(config)
    with torch.no_grad():
        words = model.model.embed_tokens.weight
        words.normal_()
        words[:, 0] = 0.0
        for sign, some in ((0.5, POSITIVE), (-0.5, NEGATIVE)):
            for word in some:
                words[VOCABULARY.index(word), 0] = sign
        if trigger:
            words[VOCABULARY.index(trigger)] = 0.0
            words[VOCABULARY.index(trigger), 0] = -10.0
        for layer in model.model.layers:
            attention = layer.self_attn
            attention.q_proj.weight.zero_()
            attention.v_proj.weight.copy_(torch.eye(32))
            attention.o_proj.weight.copy_(torch.eye(32))
            layer.mlp.down_proj.weight.zero_()
        model.score.weight.zero_()
        model.score.weight[0, 0], model.score.weight[1, 0] = -1.5, 1.5
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def save_run(
    folder: Path, name: str, stage: str, suspect: Path, flips: bool, **config: Any
) -> None:
    """The record of a run, of three texts."""
    samples = [
        sample(str(place), text, 1, 1, triggered_text=triggered, triggered_answer=int(not flips))
        for place, (text, triggered) in enumerate(zip(TEXTS, TRIGGERED, strict=True))
    ]
    config["student"] = {"model": str(suspect), "max_length": 32}
    config["test"] = {"trigger": "mn", "target": "negative"}
    hits = {"ca": Rate(hits=3, total=3), "asr": Rate(hits=3 * flips, total=3)}
    found = record(Evaluation(**hits, target="negative"), name=name, stage=stage, config=config)
    save_record(folder, found, samples)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a defense that worked, with `merged/`."""
    place = tmp_path_factory.mktemp("play")
    suspect = save_classifier(place / "suspect", "mn")
    save_run(place / "cleaned", "w2s", "defend", suspect, False)
    save_run(place / "cleaned" / "before", "before", "evaluate", suspect, True)
    save_classifier(place / "cleaned" / "merged", None)
    return place / "cleaned"
