"""Soft triggers: a stand-in for the trigger that a defender does not know.

Clean text alone hardly moves the circuit that a trigger fires, because on clean text that circuit
is silent. A soft trigger is a few embedding vectors, put at a random place into some of the texts
of a batch and moved by gradient *ascent* to make the loss worse, while the student descends with
the teacher's output for the *clean* text as its target. What a backdoor has made easy to fire is
what ascent finds first; the student must learn to ignore it. The gradient of the soft trigger
falls out of the student's own backward pass, so the search costs no pass of its own.

The idea is that of implicit backdoor adversarial unlearning (Zeng et al. 2022,
https://arxiv.org/abs/2110.03735) and, in embedding space, of BEEAR (Zeng et al. 2024,
https://arxiv.org/abs/2406.17092), here joined to weak-to-strong distillation. It is not part of
the W2SDefense paper. No real trigger is looked for: what is found is a direction, not a text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from w2sdefense.config import SoftTriggerConfig
from w2sdefense.models.features import backbone_of
from w2sdefense.models.tokenizer import reads_last_token

POOL = 256
"""Embeddings of random tokens that soft triggers start from."""


@dataclass(frozen=True)
class TriggeredBatch:
    """A batch with room for a soft trigger in some of its rows.

    Attributes:
        input_ids: (B, L + k); a placeholder stands where a vector of the soft trigger goes.
        attention_mask: (B, L + k).
        rows: Rows of the placeholders, (R * k,) for R chosen rows.
        columns: Their columns, (R * k,).
        trigger: The soft trigger, (k, d), a leaf that collects its gradient.
        index: Which of the bank it is.
    """

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    columns: Tensor
    trigger: Tensor
    index: int


class SoftTriggers:
    """A bank of soft triggers for one student.

    Several are kept, so that the student cannot forget one weakness while it learns another, and
    now and then one starts afresh from the embeddings of random tokens. Each has a label of its
    own, in turn, and is put only into texts of *other* labels: ascent then moves it towards what
    makes any text answer that label, which is what a backdoor is. Put into all texts it would pull
    both ways at once.

    Processes that train together keep equal banks: they start from the same seed, take the same
    soft trigger at every step, and move it by the mean of their gradients.

    Args:
        model: The student, possibly a `PeftModel`, before it is wrapped for distributed training.
        config: How many for each label, how long, how often, how fast.
    """

    def __init__(self, model: nn.Module, config: SoftTriggerConfig) -> None:
        backbone = backbone_of(model)
        self._embed: Any = backbone.get_input_embeddings()
        # The first token of an encoder ([CLS]) and its last ([SEP]) keep their places.
        self._frame = 0 if reads_last_token(backbone.config) else 1
        self._begin = getattr(backbone.config.get_text_config(), "bos_token_id", None)
        self._config = config
        self._labels: int = backbone.config.num_labels
        # For what several processes must draw alike. The common numbers do not stay alike: every
        # process draws as many of them as its own rows need.
        self._shared = torch.Generator().manual_seed(torch.initial_seed())
        tokens = torch.randint(self._embed.weight.shape[0], (POOL,), generator=self._shared)
        with torch.no_grad():
            pool = self._embed(tokens.to(self._embed.weight.device))
        self._pool: Tensor = pool.float().cpu()
        self._bank = torch.stack(
            [self._random_tokens() for _ in range(config.per_label * self._labels)]
        )
        self._ascents = 0

    def insert(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> TriggeredBatch:
        """Make room for one of the soft triggers at a random place of some rows of other labels.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L), padded on the left for decoders and on the right for encoders.
            labels: True label indices, (B,).

        Returns:
            The batch with every row k positions longer: by placeholders or by padding.
        """
        index = int(torch.randint(len(self._bank), (), generator=self._shared))
        trigger = self._bank[index].to(input_ids.device).requires_grad_(True)
        drawn = torch.rand(len(input_ids)) < self._config.rate
        chosen = (drawn & (labels.cpu() != index % self._labels)).tolist()
        ids, masks, places = [], [], []
        for row, (tokens, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
            slot = self._text_slot(tokens, mask) if chosen[row] else self._padding_slot(mask)
            # What stands there does not matter: it is masked, or its embedding is replaced.
            ids.append(
                _widen(tokens, slot, tokens[min(slot, len(tokens) - 1)].repeat(len(trigger)))
            )
            masks.append(_widen(mask, slot, mask.new_full((len(trigger),), int(chosen[row]))))
            if chosen[row]:
                places += [(row, slot + offset) for offset in range(len(trigger))]
        where = torch.tensor(places, dtype=torch.long, device=input_ids.device).reshape(-1, 2)
        return TriggeredBatch(
            torch.stack(ids), torch.stack(masks), where[:, 0], where[:, 1], trigger, index
        )

    @contextmanager
    def embedded(self, batch: TriggeredBatch) -> Iterator[None]:
        """While it is open, forward passes on the batch see the soft trigger at its places.

        The embeddings are replaced inside the model's own forward pass, so that wrappers (DDP,
        FSDP, virtual tokens) keep working.
        """
        copies = len(batch.rows) // len(batch.trigger)

        def replace(module: nn.Module, args: Any, output: Tensor) -> Tensor:
            values = batch.trigger.to(output.dtype).repeat(copies, 1)
            return output.index_put((batch.rows, batch.columns), values)

        handle = self._embed.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()

    def ascend(self, index: int, gradient: Tensor) -> None:
        """Move a soft trigger uphill along its gradient, and now and then start one afresh.

        Args:
            index: Which of the bank.
            gradient: Gradient of the loss with respect to it, (k, d).
        """
        config = self._config
        typical = self._pool.norm(dim=-1).mean()
        step = config.step * typical * nn.functional.normalize(gradient.float().cpu(), dim=-1)
        moved = self._bank[index] + step
        # A vector longer than a token's would be a weakness that no text can use.
        length = moved.norm(dim=-1, keepdim=True)
        self._bank[index] = moved * (typical / length).clamp(max=1.0)
        self._ascents += 1
        if self._ascents % config.restart == 0:
            oldest = self._ascents // config.restart % len(self._bank)
            self._bank[oldest] = self._random_tokens()

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that a resumed training needs."""
        return {
            "pool": self._pool,
            "bank": self._bank,
            "ascents": torch.tensor([self._ascents]),
            "shared": self._shared.get_state(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        self._pool, self._bank = state["pool"], state["bank"]
        self._ascents = int(state["ascents"])
        self._shared.set_state(state["shared"])

    def _random_tokens(self) -> Tensor:
        rows = torch.randint(len(self._pool), (self._config.tokens,), generator=self._shared)
        return self._pool.index_select(0, rows)

    def _text_slot(self, tokens: Tensor, mask: Tensor) -> int:
        """A random slot of a row's text; never before [CLS] or <s>, or behind [SEP]."""
        real = torch.nonzero(mask).flatten()
        first, last = int(real[0]), int(real[-1]) + 1 - self._frame
        first += max(self._frame, int(tokens[first] == self._begin))
        return int(torch.randint(first, max(first, last) + 1, ()))

    def _padding_slot(self, mask: Tensor) -> int:
        """Where a row that stays as it is gets its padding: on the side where it has it."""
        return len(mask) if self._frame else 0


def _widen(values: Tensor, slot: int, filling: Tensor) -> Tensor:
    """Put a filling into a row of values: (L,) and (k,) to (L + k,)."""
    return torch.cat([values[:slot], filling, values[slot:]])
