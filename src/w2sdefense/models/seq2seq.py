"""Texts rewritten by a sequence-to-sequence model: translation, paraphrase.

Greedy or beam search, as the model's own generation settings have it, in batches of texts of
similar length. What the model was trained to do, and in which language, is the user's choice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from w2sdefense.models.load import load_rewriter
from w2sdefense.models.padding import length_batches, pad


class Seq2SeqRewriter:
    """Rewrites texts with one model.

    Args:
        spec: What `resolve` takes.
        max_length: Longest text in tokens, before and after.
        batch_tokens: Most tokens in one batch, over all beams.
    """

    def __init__(self, spec: str, max_length: int = 128, batch_tokens: int = 2048) -> None:
        self.model, self._tokenizer = load_rewriter(spec, causal=False)
        self._max_length = max_length
        beams = self.model.generation_config.num_beams or 1
        self._batch_tokens = batch_tokens // beams

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Rewrite every text, in order."""
        if not texts:
            return []
        tokens = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._max_length,
            return_attention_mask=False,
        )["input_ids"]
        written = [""] * len(texts)
        for rows in length_batches([len(ids) for ids in tokens], self._batch_tokens):
            batch = pad([tokens[row] for row in rows], self._tokenizer, positions=False)
            with torch.inference_mode():
                output = self.model.generate(
                    **{name: value.to(self.model.device) for name, value in batch.items()},
                    max_new_tokens=self._max_length,
                    do_sample=False,
                )
            decoded = self._tokenizer.batch_decode(output, skip_special_tokens=True)
            for row, text in zip(rows, decoded, strict=True):
                written[row] = text.strip()
        return written
