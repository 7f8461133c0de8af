"""Tasks whose answer is text: a causal language model writes it behind a prompt.

Answers stand at the end of left-padded rows, so in training the model is asked for the logits of
the last columns only, which for a vocabulary of 150,000 is most of the memory. Decoding is greedy,
with the KV cache, so an answer depends on the text alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig as DecodingConfig

from w2sdefense.config import GenerationConfig, StudentConfig
from w2sdefense.data.types import Example
from w2sdefense.errors import DataError
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.tokenizer import Tokenizer, check_length, length_batches, pad
from w2sdefense.tasks.base import Output, Prediction, Row, model_inputs
from w2sdefense.tasks.prompt import IGNORED, Prompt, make_prompt

BATCH_TOKENS = 8192
"""Most tokens (padding and answers included) in one batch of `predict`."""


@dataclass(frozen=True)
class AnswerPlaces:
    """Where the answers of a batch are predicted.

    Attributes:
        keep: How many columns, counted from the end, predict a token of some answer.
        mask: Which of these predict one of their row's, (B, keep).
        labels: The tokens that they should predict, (N,).
    """

    keep: int
    mask: Tensor
    labels: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> AnswerPlaces:
        """Find the answers in labels (B, L), which are `IGNORED` but for the answers.

        A token is predicted one column before it.
        """
        shifted = labels[:, 1:]
        answered = shifted != IGNORED
        columns = answered.any(0).nonzero()
        keep = shifted.shape[1] - int(columns[0]) if len(columns) else 1
        mask = answered[:, -keep:]
        return cls(keep, mask, shifted[:, -keep:][mask])

    def pick(self, values: Tensor) -> Tensor:
        """The values at these places: (B, at least keep + 1, d) to (N, d), in float32."""
        # The last column predicts nothing: what follows it is in no row.
        return values[:, -self.keep - 1 : -1][self.mask].float()


@dataclass(frozen=True)
class Generation:
    """A prompt around the text, and the answer that follows; a task adds how answers are scored."""

    prompt: Prompt

    all_or_nothing: ClassVar[bool] = False
    text_answers: ClassVar[bool] = True
    other_answers: ClassVar[str] = "with another answer"
    template: ClassVar[str]
    """The default prompt, `{text}` where the text goes, in the language of the data."""
    label_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def load(
        cls,
        config: StudentConfig,
        generation: GenerationConfig,
        label_names: tuple[str, ...] | None = None,
        *,
        fresh_head: bool = False,
    ) -> tuple[Any, Self]:
        """Open a causal language model; see `Task.load`."""
        model, tokenizer = load_causal_lm(
            config.model, base=config.base, dtype=config.dtype, four_bit=config.load_in_4bit
        )
        check_length(model, config.max_length, beside=generation.answer_tokens)
        prompt = make_prompt(
            tokenizer,
            generation.prompt_template or cls.template,
            generation.prompt_style,
            config.max_length,
            generation.answer_tokens,
        )
        return model, cls(prompt)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        tokenizer: Tokenizer = self.prompt.tokenizer
        return tokenizer

    @property
    def max_length(self) -> int:
        """Longest prompt in tokens."""
        return self.prompt.max_length

    @property
    def notes(self) -> tuple[str, ...]:
        """What the chat format does with texts."""
        return self.prompt.notes

    def cut_points(self, texts: Sequence[str]) -> list[int | None]:
        """For every text the character at which the model stops reading it; None reads it all."""
        return [self.prompt.ask(text).cut_at for text in texts]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Prompt and answer as tokens; labels are `IGNORED` but for the answer."""
        rows = []
        for example in examples:
            ids, labels = self.prompt.teach(example.text, str(example.answer))
            rows.append({"input_ids": ids, "labels": labels})
        return rows

    def output(self, model: nn.Module, tap: FeatureTap, batch: Mapping[str, Tensor]) -> Output:
        """One row per answer token: the logits that predict it and the state they are read from."""
        places = AnswerPlaces.of(batch["labels"])
        logits = model(**model_inputs(batch), logits_to_keep=places.keep + 1).logits
        states = tap.token_states()
        return Output(places.pick(logits), places.pick(states), places.labels, states)

    def predict(
        self, model: Any, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text; see `Task.predict`."""
        asked = [self.prompt.ask(text) for text in texts]
        lengths = [len(one.ids) + self.prompt.answer_tokens for one in asked]
        written: dict[int, list[int]] = {}
        was_training = model.training
        model.eval()
        for rows in length_batches(lengths, BATCH_TOKENS):
            written.update(zip(rows, self._write(model, [asked[r].ids for r in rows]), strict=True))
            if progress is not None:
                progress(len(rows))
        model.train(was_training)
        end = self.tokenizer.eos_token_id
        return [
            Prediction(
                answer=self.prompt.read(written[row]),
                cut_at=one.cut_at,
                finished=end in written[row],
            )
            for row, one in enumerate(asked)
        ]

    @torch.inference_mode()
    def _write(self, model: Any, prompts: list[list[int]]) -> list[list[int]]:
        """The tokens that follow some prompts, up to and with the one that ends an answer."""
        tokenizer: Any = self.tokenizer
        # `generate` works the positions out of the mask itself.
        batch = pad(prompts, tokenizer, positions=False)
        device = next(model.parameters()).device
        tokens = model.generate(
            **{name: value.to(device) for name, value in batch.items()},
            # A checkpoint's own settings may sample.
            generation_config=DecodingConfig(
                max_new_tokens=self.prompt.answer_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
        )
        answers: list[list[int]] = tokens[:, batch["input_ids"].shape[1] :].tolist()
        return [_up_to(tokenizer.eos_token_id, answer) for answer in answers]

    def target(self, name: str | None) -> str:
        """The text that an attacker wants to come out."""
        if not name:
            raise DataError("There is no target text.", "Name the text with --target.")
        return name


def _up_to(end: int, tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens
