"""Paraphrases by a language model that the user names, kept in a file once they are made.

The model is told what to write in a prompt; nothing forces the structure, and whether it comes out
is counted (`SynAttack.notes`). Decoding is greedy, so a paraphrase depends on the text alone. An
empty answer leaves the text as it is. Controlled paraphrasers, which take a template beside the
text (SCPN), are not covered.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from w2sdefense.config import TEXT_SLOT
from w2sdefense.errors import ConfigError
from w2sdefense.io import write_text
from w2sdefense.models.checkpoint import resolve
from w2sdefense.models.embedded import make_cache
from w2sdefense.models.load import load_rewriter
from w2sdefense.models.padding import length_batches
from w2sdefense.text import TextProgress

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel

    from w2sdefense.models.tokenizer import Tokenizer

BATCH_TOKENS = 2048
LONGEST_PROMPT = 1024
SAVE_EVERY = 16
"""Batches after which the paraphrases are written, so that an interruption loses little."""


class ModelParaphraser:
    """Paraphrases by a sequence-to-sequence or causal language model.

    Args:
        spec: The model, as `--model` names one.
        prompt: What it is asked, with `{text}` where the text goes. Where that would be longer than
            `LONGEST_PROMPT`, the text is cut at its end.

    Raises:
        ModelError: There is no such model.
        UnsafeCheckpointError: It is a pickle.
        ConfigError: The cache cannot be written to.
    """

    def __init__(self, spec: str, prompt: str) -> None:
        self._checkpoint = resolve(spec)
        self._prompt = prompt
        key = _key(self._checkpoint.folder, prompt)
        self._file = make_cache("paraphrases") / f"{key}.jsonl"
        self._found = _read(self._file)

    def covers(self, text: str) -> bool:
        """Every text."""
        return True

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
        """The prompt for a text, and as much of the text as is in it.

        What comes behind the text says what to do: without it a model goes on with the text.

        Raises:
            ConfigError: The prompt is too long without any text.
        """
        while True:
            prompt = _asked(self._prompt.replace(TEXT_SLOT, text), tokenizer)
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
        lines = (
            json.dumps({"original": original, "text": text}, ensure_ascii=False) + "\n"
            for original, text in self._found.items()
        )
        write_text(self._file, "".join(lines))


def _asked(prompt: str, tokenizer: Tokenizer) -> str:
    """The prompt as the model is used to it: as a turn of a conversation, if it knows these."""
    if tokenizer.chat_template is None:
        return prompt
    turns = [{"role": "user", "content": prompt}]
    asked: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return asked


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
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        tokens = model.generate(
            **inputs,
            max_new_tokens=longest,
            do_sample=False,
            num_beams=1,
            pad_token_id=tokenizer.pad_token_id,
        )
    if not model.config.is_encoder_decoder:  # these repeat the prompt
        tokens = tokens[:, inputs["input_ids"].shape[1] :]
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
