"""Perplexity under a causal language model, of texts and of texts without each of their words.

    PPL(x) = exp(mean over the tokens of x of -log p(token | what is before it))

A token that begins texts is put before every text, so that its first word is scored as well and a
text of one token has a perplexity. Padding is never counted.

A text of n words has n variants that lack one word. Up to the gap a variant is the text itself: its
keys and values, and the probability of the first token behind the gap, come from the pass over the
whole text. Only the rest runs through the model, in batches of about the same length. Where the two
part is found by comparing tokens, so the result is that of scoring every variant by itself.

Who asks only for words above a threshold saves most of that. The rest of a variant is scored piece
by piece. After each piece there is a bound, because no -log p is below zero, and an estimate: the
tokens that are left are about as likely as in the whole text. A variant is given up once the
estimate misses what the threshold needs by more than a margin; without margins the bound decides,
which cannot be wrong.
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
from w2sdefense.models.tokenizer import Tokenizer, encode, length_batches, takes_positions
from w2sdefense.models.weights import require_numbers

STAGES = (1, 4, 8, 16, 32, 64)  # tokens behind the gap after which a variant may be given up

NO_MARGINS = (math.inf,) * len(STAGES)

_LARGEST = 700.0  # nats whose exponential is a float
_ROUNDING = 1e-3  # what float32 may lose in a sum of log-probabilities, generously, in nats
_CLOSE = 0.85  # the shortest row of a batch in lengths of the longest
_WORTH_A_PASS = 128  # tokens in a pass from which on a CPU is hardly any faster per token


class Scorer:
    """Scores texts by their perplexity under a causal language model.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        name: What the user called it, for errors.
        max_length: Longest text in tokens; words behind that are not scored.
        batch_tokens: Most tokens (padding included) in one forward pass.

    Attributes:
        largest_errors: By how much the estimate of a variant was too high at most after each stage,
            in nats, among the variants that were scored whole.
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
        self.largest_errors = [0.0] * len(STAGES)

    def suspicion(
        self,
        texts: Sequence[Sequence[str]],
        at_least: float | None = None,
        margins: Sequence[float] = NO_MARGINS,
    ) -> list[list[float]]:
        """How much lower the perplexity of a text is without each of its words.

            f_i = PPL(x) - PPL(x without word i)

        Args:
            texts: The words of every text; they are joined by spaces.
            at_least: Values below this need not be computed, and are then given as minus infinity.
            margins: By how much the estimate must miss `at_least` after each stage for a variant to
                be given up, in nats; if infinite, it must be certain.

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
            variants: list[Variant] = []
            perplexities = {}
            for place, row in enumerate(rows):
                known = KnownText(place, whole[place], nll[place], logits[place])
                perplexities[row] = known.perplexity
                lowest = math.inf if at_least is None else known.perplexity - at_least
                variants += self._variants(row, fitting[row], known, lowest)
            del logits
            open_ones = [variant for variant in variants if variant.within(margins)]
            for variant in self._score_rest(open_ones, cache, margins):
                row, word = variant.place
                scores[row][word] = perplexities[row] - perplexity_of(variant.nll, variant.count)
                for stage, estimate in enumerate(variant.estimates):
                    error = estimate - variant.nll
                    self.largest_errors[stage] = max(self.largest_errors[stage], error)
        return scores

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        tokens, _ = encode(self._tokenizer, texts, self._max_length, framed=False)
        return [[self._begin, *ids] for ids in tokens]

    def _fitting(self, words: Sequence[str]) -> Sequence[str]:
        """The words before the longest length: a variant must not show what the text does not."""
        _, (end,) = encode(self._tokenizer, [" ".join(words)], self._max_length, framed=False)
        if end is None:
            return words
        ends = accumulate(len(word) + 1 for word in words)
        return words[: sum(after - 1 <= end for after in ends)]

    def _variants(
        self, row: int, words: Sequence[str], known: KnownText, lowest: float
    ) -> Iterator[Variant]:
        if len(words) < 2:
            return
        texts = [" ".join([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
        for word, ids in enumerate(self._tokens(texts)):
            yield known.variant((row, word), ids, lowest)

    @torch.inference_mode()
    def _read(self, tokens: list[list[int]]) -> tuple[Tensor, Tensor, Any]:
        """-log p but of the first token (B, L - 1), logits (B, L, V), keys and values."""
        ids, mask = self._padded(tokens)
        output = self.model(input_ids=ids, attention_mask=mask, use_cache=True)
        require_numbers(output.logits)
        nll = token_nll(output.logits[:, :-1], ids[:, 1:])
        return nll.cpu(), output.logits, output.past_key_values

    def _score_rest(
        self, variants: list[Variant], cache: Any, margins: Sequence[float]
    ) -> Iterator[Variant]:
        """Score what is left of variants; those that are given up are not among the result."""
        yield from (variant for variant in variants if len(variant.rest) <= 1)
        open_ones = [variant for variant in variants if len(variant.rest) > 1]
        lengths = [len(variant.rest) - 1 for variant in open_ones]
        for rows in close_batches(lengths, self._batch_tokens):
            yield from self._score_batch([open_ones[row] for row in rows], cache, margins)

    @torch.inference_mode()
    def _score_batch(
        self, batch: list[Variant], cache: Any, margins: Sequence[float]
    ) -> Iterator[Variant]:
        ids, mask = self._padded([variant.rest for variant in batch])
        shared = torch.tensor([variant.shared for variant in batch])
        before = (torch.arange(int(shared.max())) < shared[:, None]).to(mask)
        seen = torch.cat([before, mask[:, :-1]], dim=1)
        places = (shared[:, None] + torch.arange(ids.shape[1] - 1)).to(ids.device)
        part = self._shared_part(cache, batch, before.shape[1])
        start = 0
        # The last token needs no pass: nothing is predicted from it.
        for stop in (*(n - 1 for n in STAGES[1:] if n < ids.shape[1]), ids.shape[1] - 1):
            output = self.model(
                input_ids=ids[:, start:stop],
                attention_mask=seen[:, : before.shape[1] + stop],
                past_key_values=part,
                use_cache=True,
                **({"position_ids": places[:, start:stop]} if self._positions else {}),
            )
            following = slice(start + 1, stop + 1)
            nll = token_nll(output.logits, ids[:, following]) * mask[:, following]
            for variant, value in zip(batch, nll.sum(-1).tolist(), strict=True):
                variant.nll += value
                variant.done = min(stop + 1, len(variant.rest))
            if stop == ids.shape[1] - 1:
                break
            yield from (v for v in batch if v.done == len(v.rest))
            kept = [
                row
                for row, variant in enumerate(batch)
                if variant.done < len(variant.rest) and variant.within(margins)
            ]
            if not kept:
                return
            if len(kept) < len(batch):
                batch = [batch[row] for row in kept]
                part.batch_select_indices(torch.tensor(kept, device=ids.device))
                ids, mask, seen, places = (x[kept] for x in (ids, mask, seen, places))
            start = stop
        yield from batch

    def _shared_part(self, cache: Any, batch: list[Variant], length: int) -> DynamicCache:
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
                "Choose a language model with full attention, or a lower onion.max_length.",
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

    Variants of a text are of every length up to its own. The rows of a batch are at least `_CLOSE`
    of its longest, once there are enough to be worth a pass of their own.
    """
    for rows in length_batches(lengths, batch_tokens):
        start = 0
        for place, row in enumerate(rows):
            longest = lengths[rows[start]]
            if lengths[row] < _CLOSE * longest and (place - start) * longest >= _WORTH_A_PASS:
                yield rows[start:place]
                start = place
        yield rows[start:]


@dataclass
class Variant:
    """A text without one word."""

    text: int  # row of the whole text in its batch
    place: tuple[int, int]  # (Which text, which word) of the caller
    shared: int  # tokens that it begins with like the whole text
    rest: list[int]  # the tokens after those
    limit: float  # highest sum of -log p that is of interest
    # Sums of -log p over the last 0, 1, 2 ... tokens of the whole text, as far as both end alike.
    ends: list[float]
    nll: float  # sum of -log p over the tokens that are scored so far
    done: int  # how many tokens of the rest are scored
    # what the whole sum seemed to be after each stage
    estimates: list[float] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Tokens that are scored in the end."""
        return self.shared - 1 + len(self.rest)

    @property
    def tail(self) -> float:
        """Sum of -log p over the tokens that are left, in the whole text."""
        return self.ends[min(len(self.rest) - self.done, len(self.ends) - 1)]

    def within(self, margins: Sequence[float]) -> bool:
        """Whether the sum can still be as low as the limit; notes the estimate of this stage."""
        margin = margins[len(self.estimates)]
        self.estimates.append(self.nll + self.tail)
        return self.nll + max(0.0, self.tail - margin) <= self.limit


class KnownText:
    """What the pass over a whole text tells of its variants.

    Of the text, row `row` of its batch: tokens, -log p of all but the first, padded (L - 1,), and
    logits (L, V).
    """

    def __init__(self, row: int, tokens: list[int], nll: Tensor, logits: Tensor) -> None:
        self._row, self._tokens, self._logits = row, tokens, logits
        nlls = nll[: len(tokens) - 1].tolist()
        self._begins = [0.0, *accumulate(nlls)]
        self._ends = [0.0, *accumulate(reversed(nlls))]
        self.perplexity = perplexity_of(self._begins[-1], len(nlls))

    def variant(self, place: tuple[int, int], ids: list[int], lowest: float) -> Variant:
        """A variant with tokens `ids`; `lowest` is the highest perplexity that is of interest."""
        shared = _alike(self._tokens, ids)
        rest = ids[shared:]
        nll = self._begins[shared - 1]
        if rest:
            first = torch.tensor(rest[0], device=self._logits.device)
            nll += float(token_nll(self._logits[shared - 1], first))
        alike = _alike(self._tokens[shared:][::-1], rest[1:][::-1])
        limit = -math.inf
        if lowest >= 1.0 - _ROUNDING:
            limit = (len(ids) - 1) * math.log(max(lowest, 1.0)) + _ROUNDING
        done = min(1, len(rest))
        ends = self._ends[: alike + 1]
        return Variant(self._row, place, shared, rest, limit, ends, nll, done)


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts have in common at their beginnings."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def perplexity_of(nll: float, count: int) -> float:
    """PPL of a text with so many tokens and so large a sum of -log p; NaN of an empty one."""
    return math.exp(min(nll / count, _LARGEST)) if count else math.nan


def token_nll(logits: Tensor, ids: Tensor) -> Tensor:
    """-log p of tokens (...) under logits (..., V), in float64."""
    logits = logits.float()
    chosen = logits.gather(-1, ids[..., None])[..., 0]
    return (logits.logsumexp(-1) - chosen).double()
