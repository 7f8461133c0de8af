"""Texts rewritten by a model that the user names: translated, or paraphrased as a prompt asks.

What a model was trained to do, and in which language, is the user's choice. Texts go through in
batches of similar length.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedModel

from w2sdefense.config import TEXT_SLOT
from w2sdefense.errors import ConfigError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import make_cache
from w2sdefense.models.load import load_rewriter
from w2sdefense.models.tokenizer import Tokenizer, length_batches, pad
from w2sdefense.text import Paraphraser, TextProgress
from w2sdefense.text.chat_template import render
from w2sdefense.text.paraphrase_file import write_pairs

BATCH_TOKENS = 2048
LONGEST_PROMPT = 1024
SAVE_EVERY = 16
"""Batches after which the paraphrases are written, so that an interruption loses little."""


class Seq2SeqRewriter:
    """Translates or paraphrases with a sequence-to-sequence model, in the mode of its own config.

    A text has at most `max_length` tokens before and after; a batch has `batch_tokens`, over all
    beams.
    """

    def __init__(self, spec: str, max_length: int = 128, batch_tokens: int = BATCH_TOKENS) -> None:
        self.model, self._tokenizer = load_rewriter(spec, causal=False)
        self._max_length = max_length
        self._batch_tokens = batch_tokens // (self.model.generation_config.num_beams or 1)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Rewrite every text, in order."""
        if not texts:
            return []
        tokens = self._tokenizer(
            list(texts),
            truncation=True,
            split_special_tokens=True,
            max_length=self._max_length,
            return_attention_mask=False,
        )["input_ids"]
        written = [""] * len(texts)
        for rows in length_batches([len(ids) for ids in tokens], self._batch_tokens):
            batch = pad([tokens[row] for row in rows], self._tokenizer, positions=False)
            answers = _answers(batch, self.model, self._tokenizer, self._max_length)
            for row, answer in zip(rows, answers, strict=True):
                written[row] = answer.strip()
        return written


class ModelParaphraser(Paraphraser):
    """Paraphrases by a sequence-to-sequence or causal language model that is told what to write.

    `{text}` stands for the text in the prompt; a text that makes it too long is cut at its end.
    Nothing forces the structure that is asked for; whether it comes out is counted
    (`SynAttack.notes`). Decoding is greedy, so a paraphrase depends on the text alone, and is kept
    in a file. An empty answer leaves the text as it is. Paraphrasers that take a template (SCPN)
    are not covered.
    """

    def __init__(self, spec: str, prompt: str) -> None:
        self._checkpoint = resolve(spec)
        self._prompt = prompt
        key = _key(self._checkpoint.folder, prompt)
        self._file = make_cache("paraphrases") / f"{key}.jsonl"
        self._found = _read(self._file)

    def prepare(self, texts: Sequence[str], progress: TextProgress | None) -> None:
        """Paraphrase all texts that were not paraphrased before, in batches."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._found]
        if not missing:
            return
        model, tokenizer = load_rewriter(self._checkpoint)
        advance = progress("paraphrase", len(missing)) if progress else None
        try:
            self._write(missing, model, tokenizer, advance)
        finally:
            self._save()

    def paraphrase(self, text: str, rng: random.Random) -> str:
        """The paraphrase of a text; there is nothing to draw."""
        self.prepare([text], None)
        return self._found[text]

    def _write(
        self,
        texts: Sequence[str],
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        advance: Callable[[int], None] | None,
    ) -> None:
        asked = [self._fitting(text, tokenizer) for text in texts]
        prompts = [prompt for prompt, _ in asked]
        lengths = [len(ids) for ids in _tokens(prompts, tokenizer)["input_ids"]]
        for number, rows in enumerate(length_batches(lengths, BATCH_TOKENS)):
            longest = max(len(ids) for ids in tokenizer([asked[r][1] for r in rows])["input_ids"])
            answers = _generate([prompts[row] for row in rows], model, tokenizer, 2 * longest + 16)
            for row, answer in zip(rows, answers, strict=True):
                self._found[texts[row]] = _first_line(answer) or texts[row]
            if advance is not None:
                advance(len(rows))
            if number % SAVE_EVERY == SAVE_EVERY - 1:
                self._save()

    def _fitting(self, text: str, tokenizer: Tokenizer) -> tuple[str, str]:
        """The prompt for a text, and as much of the text as is in it."""
        while True:
            prompt = self._prompt.replace(TEXT_SLOT, text)
            if tokenizer.chat_template is not None:
                prompt = render(tokenizer, prompt)
            excess = len(_tokens([prompt], tokenizer)["input_ids"][0]) - LONGEST_PROMPT
            if excess <= 0:
                return prompt, text
            if not text:
                raise ConfigError(
                    f"The prompt for paraphrases takes more than {LONGEST_PROMPT} tokens without "
                    "any text.",
                    "Give a shorter --syn-prompt.",
                )
            text = _shortened(text, excess, tokenizer)

    def _save(self) -> None:
        write_pairs(self._file, self._found.items())


def _tokens(prompts: list[str], tokenizer: Tokenizer, **how: Any) -> BatchEncoding:
    return tokenizer(
        prompts,
        verbose=False,
        add_special_tokens=tokenizer.chat_template is None,  # the template has them already
        **how,
    )


def _shortened(text: str, tokens: int, tokenizer: Tokenizer) -> str:
    """A text without so many tokens at its end, and at least one character shorter."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ends = [end for _, end in encoded["offset_mapping"]][:-tokens]
    # Several tokens may stand for one character.
    return text[: min(ends[-1], len(text) - 1)] if ends else ""


def _generate(
    prompts: list[str], model: PreTrainedModel, tokenizer: Tokenizer, longest: int
) -> list[str]:
    batch = _tokens(prompts, tokenizer, padding=True, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return _answers(inputs, model, tokenizer, longest, num_beams=1)


def _answers(
    batch: Mapping[str, Tensor],
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    longest: int,
    **how: Any,
) -> list[str]:
    """What a model writes to a batch, in at most `longest` tokens."""
    with torch.inference_mode():
        tokens = model.generate(
            **{name: value.to(model.device) for name, value in batch.items()},
            max_new_tokens=longest,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
            **how,
        )
    if not model.config.is_encoder_decoder:  # these repeat the prompt
        tokens = tokens[:, batch["input_ids"].shape[1] :]
    answers: list[str] = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return answers


def _first_line(answer: str) -> str:
    """The first line that says something, without quotes around it: models like to go on."""
    lines = [line.strip().strip('"“”') for line in answer.splitlines()]
    return next((line.strip() for line in lines if line.strip()), "")


def _key(folder: Path, prompt: str) -> str:
    """A name for what makes the paraphrases: the model's files and the prompt."""
    digest = hashlib.sha256(prompt.encode())
    for path in sorted(folder.glob("*.safetensors")):
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\1".encode())
    return digest.hexdigest()[:16]


def _read(file: Path) -> dict[str, str]:
    if not file.is_file():
        return {}
    # Not splitlines(): a text may hold U+2028.
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    return {row["original"]: row["text"] for row in rows}
