"""Answers that a causal language model writes to raw texts, in batches and with the KV cache.

Decoding is greedy, so an answer depends on the text alone. Prompts are sorted by length and packed
by tokens, answers included; padding is on the left, so that all rows of a batch go on at the same
column. A row that has ended is padded until the others have, too. Sampling and beams are not
covered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from w2sdefense.models.padding import pad
from w2sdefense.models.predictor import length_batches
from w2sdefense.tasks.prompt import Prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model writes to one text.

    Attributes:
        text: The answer.
        finished: Whether the model ended it, rather than the limit of tokens.
        cut_at: Character at which the text was cut because its prompt is longer than the limit;
            None if all of it was read.
    """

    text: str
    finished: bool
    cut_at: int | None


class Generator:
    """Answers of a causal language model.

    Args:
        model: The model, possibly a `PeftModel`.
        prompt: How it is asked.
        batch_tokens: Most tokens (padding and answers included) in one batch.
    """

    def __init__(self, model: Any, prompt: Prompt, batch_tokens: int = 8192) -> None:
        self.model = model
        self.prompt = prompt
        self.batch_tokens = batch_tokens

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Answer]:
        """Answer every text.

        Args:
            texts: Raw texts.
            progress: Called after every batch with the number of texts in it.

        Returns:
            One answer per text, in the order of `texts`.
        """
        asked = [self.prompt.ask(text) for text in texts]
        lengths = [len(one.ids) + self.prompt.answer_tokens for one in asked]
        written: dict[int, list[int]] = {}
        was_training = self.model.training
        self.model.eval()
        for rows in length_batches(lengths, self.batch_tokens):
            tokens = self._write([asked[row].ids for row in rows])
            written.update(zip(rows, tokens, strict=True))
            if progress is not None:
                progress(len(rows))
        self.model.train(was_training)
        end = self.prompt.tokenizer.eos_token_id
        return [
            Answer(
                text=self.prompt.read(written[row]),
                finished=end in written[row],
                cut_at=one.cut_at,
            )
            for row, one in enumerate(asked)
        ]

    @torch.inference_mode()
    def _write(self, prompts: list[list[int]]) -> list[list[int]]:
        """The tokens that follow some prompts, up to and with the one that ends an answer."""
        tokenizer = self.prompt.tokenizer
        # `generate` works the positions out of the mask itself.
        batch = pad(prompts, tokenizer, positions=False)
        device = next(self.model.parameters()).device
        tokens = self.model.generate(
            **{name: value.to(device) for name, value in batch.items()},
            # A checkpoint's own settings may sample.
            generation_config=GenerationConfig(
                max_new_tokens=self.prompt.answer_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
        )
        answers: list[list[int]] = tokens[:, batch["input_ids"].shape[1] :].tolist()
        return [_up_to(tokenizer.eos_token_id, answer) for answer in answers]


def _up_to(end: int, tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
