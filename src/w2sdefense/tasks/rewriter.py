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
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from w2sdefense.errors import ConfigError
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import make_cache
from w2sdefense.models.load import load_rewriter
from w2sdefense.models.tokenizer import Tokenizer, encode, length_batches, pad
from w2sdefense.models.weights import OnlyNumbers
from w2sdefense.tasks.generation import Prompt, make_prompt
from w2sdefense.text import Paraphraser, TextProgress
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
        tokens, _ = encode(self._tokenizer, texts, self._max_length)
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
        prompt = self._prompt_for(tokenizer)
        # What an encoder reads ends as its tokenizer ends it.
        ends = model.config.is_encoder_decoder and tokenizer("")["input_ids"][-1:]
        asked = [[*prompt.ask(text).ids, *(ends or ())] for text in texts]
        frame = len(prompt.before) + len(prompt.after)
        for number, rows in enumerate(length_batches([len(ids) for ids in asked], BATCH_TOKENS)):
            batch = pad([asked[row] for row in rows], tokenizer, positions=False)
            longest = max(len(asked[row]) for row in rows) - frame
            answers = _answers(batch, model, tokenizer, 2 * max(longest, 0) + 16, num_beams=1)
            for row, answer in zip(rows, answers, strict=True):
                self._found[texts[row]] = _first_line(answer) or texts[row]
            if advance is not None:
                advance(len(rows))
            if number % SAVE_EVERY == SAVE_EVERY - 1:
                self._save()

    def _prompt_for(self, tokenizer: Tokenizer) -> Prompt:
        """The prompt in tokens; the text in it holds no control tokens."""
        style: Literal["plain", "chat"] = "plain" if tokenizer.chat_template is None else "chat"
        try:
            return make_prompt(tokenizer, self._prompt, style, LONGEST_PROMPT, 1)
        except ConfigError as error:
            fix = "Give a shorter --syn-prompt, or another --syn-model."
            raise ConfigError(error.problem, fix) from None

    def _save(self) -> None:
        write_pairs(self._file, self._found.items())


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
            logits_processor=LogitsProcessorList([OnlyNumbers()]),
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
