"""Perplexity under a causal language model, of texts and of texts without each of their words.

    PPL(x) = exp(mean over the tokens of x of -log p(token | what is before it))

A token that begins texts is put before every text, so that its first word is scored as well and a
text of one token has a perplexity. Padding is never counted.

A text of n words has n variants that lack one word. Up to the gap a variant is the text itself: its
keys and values there are computed once for the text, and so is the probability of the first token
behind the gap. Only the rest of a variant runs through the model, in batches with variants of about
the same length. Where the variants part is found by comparing tokens, so the result is that of
scoring every variant by itself, whatever the tokenizer does at the gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from w2sdefense.errors import ModelError
from w2sdefense.models.load import Tokenizer
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.predictor import length_batches

_ROUNDING = 1e-3
"""What float32 may lose in a sum of log-probabilities, generously, in nats."""

_CLOSE = 0.85
"""The shortest row of a batch in lengths of the longest."""

_WORTH_A_PASS = 128
"""Tokens in a pass from which on a CPU is hardly any faster per token."""


@dataclass
class _Variant:
    """A text without one word.

    Attributes:
        text: Row of the whole text in its batch.
        place: (Which text, which word) of the caller.
        shared: Tokens that it begins with like the whole text.
        rest: The tokens after those.
        nll: Sum of -log p over the tokens that are scored so far.
    """

    text: int
    place: tuple[int, int]
    shared: int
    rest: list[int]
    nll: float = field(default=0.0)

    @property
    def perplexity(self) -> float:
        return _perplexity(self.nll, self.shared - 1 + len(self.rest))


class Scorer:
    """Scores texts by their perplexity.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        name: What the user called it, for errors.
        max_length: Longest text in tokens; words behind that are not scored.
        batch_tokens: Most tokens (padding included) in one forward pass.

    Raises:
        ModelError: The tokenizer has no token to begin a text with.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        name: str,
        max_length: int = 128,
        batch_tokens: int = 1024,
    ) -> None:
        begin = tokenizer.bos_token_id
        self._begin = tokenizer.eos_token_id if begin is None else begin
        if self._begin is None:
            raise ModelError(
                f"The tokenizer of {name} has no token to begin a text with.",
                "Choose another language model.",
            )
        self.model = model.eval()
        self._tokenizer = tokenizer
        self._name = name
        self._max_length = max_length
        self._batch_tokens = batch_tokens
        self._positions = takes_positions(model)

    def perplexity(self, texts: Sequence[str]) -> list[float]:
        """PPL of every text; NaN of an empty one."""
        tokens = self._tokens(texts)
        found = [math.nan] * len(texts)
        for rows in length_batches([len(ids) for ids in tokens], self._batch_tokens):
            nll, _, _ = self._read([tokens[row] for row in rows])
            for place, row in enumerate(rows):
                count = len(tokens[row]) - 1
                found[row] = _perplexity(float(nll[place, :count].sum()), count)
        return found

    def suspicion(
        self, texts: Sequence[Sequence[str]], at_least: float | None = None
    ) -> list[list[float]]:
        """How much lower the perplexity of a text is without each of its words.

            f_i = PPL(x) - PPL(x without word i)

        Args:
            texts: The words of every text; they are joined by spaces.
            at_least: Values that are certainly below this need not be computed, and are given as
                minus infinity.

        Returns:
            f_i for every word of every text. Minus infinity for the only word of a text, and for
            words behind the longest length.
        """
        fitting = [self._fitting(words) for words in texts]
        tokens = self._tokens([" ".join(words) for words in fitting])
        scores = [[-math.inf] * len(words) for words in texts]
        for rows in length_batches([len(ids) for ids in tokens], self._batch_tokens):
            whole = [tokens[row] for row in rows]
            nll, logits, cache = self._read(whole)
            variants, perplexities = [], {}
            for place, row in enumerate(rows):
                count = len(whole[place]) - 1
                perplexities[row] = _perplexity(float(nll[place, :count].sum()), count)
                for variant in self._variants(row, place, fitting[row], whole[place]):
                    _score_known(variant, nll[place], logits[place])
                    if at_least is None or _within(variant, perplexities[row] - at_least):
                        variants.append(variant)
            del logits
            self._score_rest(variants, cache)
            for variant in variants:
                row, word = variant.place
                scores[row][word] = perplexities[row] - variant.perplexity
        return scores

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        tokens = self._tokenizer(
            list(texts),
            add_special_tokens=False,
            truncation=True,
            max_length=self._max_length,
            return_attention_mask=False,
        )["input_ids"]
        return [[self._begin, *ids] for ids in tokens]

    def _fitting(self, words: Sequence[str]) -> Sequence[str]:
        """The words before the longest length: a variant must not show what the text does not."""
        encoded = self._tokenizer(
            " ".join(words),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
        )
        offsets = encoded["offset_mapping"]
        if len(offsets) <= self._max_length:
            return words
        end = offsets[self._max_length - 1][1]
        ends = accumulate(len(word) + 1 for word in words)
        return words[: sum(after - 1 <= end for after in ends)]

    def _variants(
        self, row: int, place: int, words: Sequence[str], whole: list[int]
    ) -> Iterator[_Variant]:
        if len(words) < 2:
            return
        texts = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
        for word, ids in enumerate(self._tokens(texts)):
            pairs = takewhile(lambda pair: pair[0] == pair[1], zip(whole, ids, strict=False))
            shared = sum(1 for _ in pairs)
            yield _Variant(place, (row, word), shared, ids[shared:])

    @torch.inference_mode()
    def _read(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor, Any]:
        """Run whole texts through the model.

        Returns:
            -log p of every token but the first (B, L - 1), logits (B, L, V), and the keys and
            values.
        """
        ids, mask = self._padded(tokens)
        output = self.model(input_ids=ids, attention_mask=mask, use_cache=True)
        nll = _nll(output.logits[:, :-1], ids[:, 1:])
        return nll.cpu(), output.logits, output.past_key_values

    @torch.inference_mode()
    def _score_rest(self, variants: list[_Variant], cache: Any) -> None:
        """Add the tokens behind the first one after the gap; the last one needs no pass."""
        open_ones = [variant for variant in variants if len(variant.rest) > 1]
        lengths = [len(variant.rest) - 1 for variant in open_ones]
        for rows in close_batches(lengths, self._batch_tokens):
            batch = [open_ones[row] for row in rows]
            ids, mask = self._padded([variant.rest for variant in batch])
            shared = torch.tensor([variant.shared for variant in batch])
            before = (torch.arange(int(shared.max())) < shared[:, None]).to(mask)
            inputs = ids[:, :-1]
            places = shared[:, None] + torch.arange(inputs.shape[1])
            output = self.model(
                input_ids=inputs,
                attention_mask=torch.cat([before, mask[:, :-1]], dim=1),
                past_key_values=self._shared_part(cache, batch, int(shared.max())),
                use_cache=True,
                **({"position_ids": places.to(ids.device)} if self._positions else {}),
            )
            nll = _nll(output.logits, ids[:, 1:]) * mask[:, 1:]
            for variant, value in zip(batch, nll.sum(-1).tolist(), strict=True):
                variant.nll += value

    def _shared_part(self, cache: Any, batch: list[_Variant], length: int) -> DynamicCache:
        """Keys and values of the beginning of every variant, from those of its whole text."""
        rows = torch.tensor([variant.text for variant in batch])
        part = DynamicCache()
        for index, layer in enumerate(getattr(cache, "layers", ())):
            keys = getattr(layer, "keys", None)
            if keys is None or keys.shape[-2] < length:
                break
            place = rows.to(keys.device)
            part.update(keys[place, :, :length], layer.values[place, :, :length], index)
        if len(part.layers) != self.model.config.get_text_config().num_hidden_layers:
            raise ModelError(
                f"{self._name} does not keep the keys and values of {length} tokens.",
                "Choose a language model with full attention, or a shorter --onion-max-length.",
            )
        return part

    def _padded(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, L), padded on the right, where nothing reads the padding."""
        longest = max(map(len, tokens))
        device = self.model.device
        ids = torch.tensor([row + [self._begin] * (longest - len(row)) for row in tokens])
        lengths = torch.tensor([len(row) for row in tokens])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        return ids.to(device), mask.to(device)


def close_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """The batches of `length_batches`, cut where much of one would be padding.

    The variants of one text are of every length up to its own, so that those of a few texts would
    fill a batch that is half padding.

    Args:
        lengths: Number of tokens of every row.
        batch_tokens: See `length_batches`.

    Yields:
        Row numbers of one batch, longest first: each at least `_CLOSE` of the longest, once the
        batch is large enough to be worth a pass of its own.
    """
    for rows in length_batches(lengths, batch_tokens):
        start = 0
        for place, row in enumerate(rows):
            longest = lengths[rows[start]]
            if lengths[row] < _CLOSE * longest and (place - start) * longest >= _WORTH_A_PASS:
                yield rows[start:place]
                start = place
        yield rows[start:]


def _nll(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of tokens (...) under logits (..., V), in float64."""
    logits = logits.float()
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    return (logits.logsumexp(-1) - chosen).double()


def _score_known(variant: _Variant, nll: Tensor, logits: Tensor) -> None:
    """Add what the pass over the whole text knows of a variant."""
    variant.nll = float(nll[: variant.shared - 1].sum())
    if variant.rest:
        first = torch.tensor(variant.rest[0], device=logits.device)
        variant.nll += float(_nll(logits[variant.shared - 1], first))


def _perplexity(nll: float, count: int) -> float:
    return math.exp(nll / count) if count else math.nan


def _within(variant: _Variant, bound: float) -> bool:
    """Whether the perplexity of a variant can be as low as `bound`, by what is known of it.

    What is still to be scored can only add to the sum, since no -log p is below zero.
    """
    count = variant.shared - 1 + len(variant.rest)
    return bound >= 1.0 - _ROUNDING and variant.nll <= count * math.log(max(bound, 1.0)) + _ROUNDING
