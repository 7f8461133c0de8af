"""Perplexity under a causal language model, of texts and of texts without each of their words.

    PPL(x) = exp(mean over the tokens of x of -log p(token | preceding tokens))

Every text is preceded by a start token, so that its first word is scored as well and a text of one
token has a perplexity. Padding is never counted.

A text of n words has n variants that each lack one word. Up to the gap, a variant equals the text:
its keys and values, and the probability of the first token after the gap, come from the pass over
the whole text. Only the rest runs through the model, in batches of similar length. The common
prefix is found by comparing tokens, so the result equals that of scoring every variant separately.
With a threshold, variants that already miss it after the common prefix are skipped, because -log p
is never negative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from w2sdefense.errors import ModelError
from w2sdefense.models.tokenizer import Tokenizer, encode, length_batches, takes_positions
from w2sdefense.models.weights import require_numbers

_LARGEST = 700.0  # in nats; exp overflows a float soon above this
_ROUNDING = 1e-3  # generous bound of the rounding error in a sum of log-probabilities, in nats


class Scorer:
    """Scores texts by their perplexity under a causal language model.

    Words beyond `max_length` tokens are not scored. A forward pass has at most `batch_tokens`
    tokens, including padding. `name` is the name of the model in errors.
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

    def suspicion(
        self, texts: Sequence[Sequence[str]], at_least: float | None = None
    ) -> list[list[float]]:
        """How much lower the perplexity of a text is without each of its words.

            f_i = PPL(x) - PPL(x without word i)

        Args:
            texts: The words of every text; they are joined by spaces.
            at_least: Values below this need not be computed and may be minus infinity.

        Returns:
            f_i for every word of every text; minus infinity for the only word of a text, and for
            words beyond the maximum length.
        """
        fitting = [self._fitting(words) for words in texts]
        tokens = self._tokens([" ".join(words) for words in fitting])
        scores = [[-math.inf] * len(words) for words in texts]
        for rows in length_batches([len(ids) for ids in tokens], self._batch_tokens):
            nll, logits, cache = self._read([tokens[row] for row in rows])
            variants: list[Variant] = []
            perplexities = {}
            for place, row in enumerate(rows):
                nlls = nll[place, : len(tokens[row]) - 1].tolist()
                whole = perplexities[row] = perplexity_of(sum(nlls), len(nlls))
                lowest = math.inf if at_least is None else whole - at_least
                for word, ids in enumerate(self._without_each_word(fitting[row])):
                    shared, nll_so_far = _begun(tokens[row], ids, nlls, logits[place])
                    variant = Variant(place, (row, word), shared, ids[shared:], nll_so_far)
                    if variant.within(lowest):
                        variants.append(variant)
            del logits
            self._score_rest(variants, cache)
            for variant in variants:
                row, word = variant.place
                scores[row][word] = perplexities[row] - perplexity_of(variant.nll, variant.count)
        return scores

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokens, _ = encode(self._tokenizer, texts, self._max_length, framed=False)
        return [[self._begin, *ids] for ids in tokens]

    def _fitting(self, words: Sequence[str]) -> Sequence[str]:
        """The words within the maximum length; variants must not contain later words."""
        _, (end,) = encode(self._tokenizer, [" ".join(words)], self._max_length, framed=False)
        if end is None:
            return words
        ends = accumulate(len(word) + 1 for word in words)
        return words[: sum(after - 1 <= end for after in ends)]

    def _without_each_word(self, words: Sequence[str]) -> list[list[int]]:
        """The tokens of all variants of a text; a text of one word has no variants."""
        count = len(words) if len(words) > 1 else 0
        return self._tokens([" ".join([*words[:i], *words[i + 1 :]]) for i in range(count)])

    @torch.inference_mode()
    def _read(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor, Any]:
        """-log p of all tokens except the first (B, L - 1), logits (B, L, V), keys and values."""
        ids, mask = self._padded(tokens)
        output = self.model(input_ids=ids, attention_mask=mask, use_cache=True)
        require_numbers(output.logits)
        nll = token_nll(output.logits[:, :-1], ids[:, 1:])
        return nll.cpu(), output.logits, output.past_key_values

    def _score_rest(self, variants: Sequence[Variant], cache: Any) -> None:
        """Score the remaining tokens of the variants and add them to `Variant.nll`."""
        left = [variant for variant in variants if len(variant.rest) > 1]
        lengths = [len(variant.rest) - 1 for variant in left]
        for rows in length_batches(lengths, self._batch_tokens):
            self._score_batch([left[row] for row in rows], cache)

    @torch.inference_mode()
    def _score_batch(self, batch: list[Variant], cache: Any) -> None:
        ids, mask = self._padded([variant.rest for variant in batch])
        shared = torch.tensor([variant.shared for variant in batch])
        before = (torch.arange(int(shared.max())) < shared[:, None]).to(mask)
        # Padding gets position 0, because its own may be beyond the table of positions.
        places = (shared[:, None] + torch.arange(ids.shape[1] - 1)).to(mask) * mask[:, :-1]
        # The last token is not needed as input, because it predicts nothing.
        output = self.model(
            input_ids=ids[:, :-1],
            attention_mask=torch.cat([before, mask[:, :-1]], dim=1),
            past_key_values=self._shared_part(cache, batch, before.shape[1]),
            use_cache=True,
            **({"position_ids": places} if self._positions else {}),
        )
        nll = token_nll(output.logits, ids[:, 1:]) * mask[:, 1:]
        for variant, value in zip(batch, nll.sum(-1).tolist(), strict=True):
            variant.nll += value

    def _shared_part(self, cache: Any, batch: list[Variant], length: int) -> DynamicCache:
        """Keys and values of the common prefix of every variant, from those of the whole text."""
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
                "Choose a language model with full attention, or a lower onion.max_length.",
            )
        return part

    def _padded(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask (B, L), padded on the right, where no token attends to the padding."""
        longest = max(map(len, tokens))
        device = self.model.device
        ids = torch.tensor([row + [self._begin] * (longest - len(row)) for row in tokens])
        lengths = torch.tensor([len(row) for row in tokens])
        mask = (torch.arange(longest) < lengths[:, None]).long()
        return ids.to(device), mask.to(device)


@dataclass
class Variant:
    """A text without one word."""

    text: int  # row of the whole text in its batch
    place: tuple[int, int]  # (index of the text, index of the removed word)
    shared: int  # length of the common prefix with the whole text, in tokens
    rest: list[int]  # the tokens after the common prefix
    nll: float  # sum of -log p over the tokens scored so far

    @property
    def count(self) -> int:
        """The total number of scored tokens."""
        return self.shared - 1 + len(self.rest)

    def within(self, perplexity: float) -> bool:
        """Whether the perplexity of the variant can still be at most `perplexity`."""
        if perplexity < 1.0 - _ROUNDING:
            return False
        return self.nll <= self.count * math.log(max(perplexity, 1.0)) + _ROUNDING


def _begun(
    whole: Sequence[int], ids: Sequence[int], nlls: Sequence[float], logits: Tensor
) -> tuple[int, float]:
    """The common prefix of a variant and its text, and the sum of -log p up to the next token.

    `nlls` are -log p of all tokens of the text except the first; its logits are (L, V).
    """
    shared = _alike(whole, ids)
    nll = sum(nlls[: shared - 1])
    if shared < len(ids):
        nll += float(token_nll(logits[shared - 1], torch.tensor(ids[shared], device=logits.device)))
    return shared, nll


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the common prefix of two token sequences."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def perplexity_of(nll: float, count: int) -> float:
    """Perplexity from a sum of -log p and a number of tokens; NaN for no tokens."""
    return math.exp(min(nll / count, _LARGEST)) if count else math.nan


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of tokens (...) under logits (..., V), in float64."""
    logits = logits.float()
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    return (logits.logsumexp(-1) - chosen).double()
