"""Translation with a sequence-to-sequence model, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessorList

from w2sdefense.models.load import load_translator
from w2sdefense.models.tokenizer import encode, length_batches, pad
from w2sdefense.models.weights import OnlyNumbers

BATCH_TOKENS = 2048


class Translator:
    """Translates with the generation settings of the model, but without sampling.

    Texts and translations have at most `max_length` tokens. A batch has at most `batch_tokens`
    tokens, over all beams.
    """

    def __init__(self, spec: str, max_length: int = 128, batch_tokens: int = BATCH_TOKENS) -> None:
        self.model, self._tokenizer = load_translator(spec)
        self._max_length = max_length
        self._batch_tokens = batch_tokens // (self.model.generation_config.num_beams or 1)

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Translate every text, in order; if a translation is empty, the text is returned."""
        if not texts:
            return []
        tokens, _ = encode(self._tokenizer, texts, self._max_length)
        written = list(texts)
        for rows in length_batches([len(ids) for ids in tokens], self._batch_tokens):
            batch = pad([tokens[row] for row in rows], self._tokenizer, positions=False)
            with torch.inference_mode():
                answers = self.model.generate(
                    **{name: value.to(self.model.device) for name, value in batch.items()},
                    max_new_tokens=self._max_length,
                    do_sample=False,
                    pad_token_id=self._tokenizer.pad_token_id,
                    logits_processor=LogitsProcessorList([OnlyNumbers()]),
                )
            for row, ids in zip(rows, answers, strict=True):
                text = self._tokenizer.decode(ids, skip_special_tokens=True)
                written[row] = text.strip() or texts[row]
        return written
