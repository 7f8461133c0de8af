"""Tasks whose answer is text: a causal language model writes it behind a prompt.

Answers stand at the end of left-padded rows, so in training the model is asked for the logits of
the last columns only, which for a vocabulary of 150,000 is most of the memory. Decoding is greedy,
with the KV cache, so an answer depends on the text alone.

One prompt is for training and evaluation. Frame, text and answer are cut into tokens each by itself
(control tokens spelt in text and answer are split into plain characters), so a prompt is the same
tokens whatever follows it, and only the *text* is shortened where a limit demands it. With `chat`
the template is the user's turn in the chat format of the model, which is rendered with every text:
a chat template may treat some of them otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from transformers import GenerationConfig as DecodingConfig
from transformers import LogitsProcessorList

from w2sdefense.config import TEXT_SLOT
from w2sdefense.data.types import Example
from w2sdefense.errors import ConfigError, DataError
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.tokenizer import (
    check_length,
    length_batches,
    pad,
    plain,
    require_known,
)
from w2sdefense.models.weights import OnlyNumbers
from w2sdefense.tasks.base import IGNORED, Opening, Output, Prediction, Row, model_inputs
from w2sdefense.text.chat_template import ChatTurn, template_notes

BATCH_TOKENS = 8192  # most tokens (padding and answers included) in one batch of `predict`


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt in tokens, and the character at which the text was cut to fit, if it was."""

    ids: list[int]
    cut_at: int | None


def _frame(
    tokenizer: Any, template: str, style: Literal["plain", "chat"]
) -> tuple[str, str, ChatTurn | None]:
    """What stands before and behind the text, and the turn that it is in."""
    if (count := template.count(TEXT_SLOT)) != 1:
        raise ConfigError(
            f"The prompt template {template!r} holds {TEXT_SLOT} {count} times.",
            f"Write {TEXT_SLOT} once, where the text goes.",
        )
    before, _, after = template.partition(TEXT_SLOT)
    if style == "chat":
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(
                "The tokenizer has no chat format.", "Use --prompt-style plain, or a chat model."
            )
        turn = ChatTurn(tokenizer, before, after)
        return *turn.usual, turn
    return before, after, None


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@dataclass(frozen=True)
class AnswerPlaces:
    """Where the answers of a batch are predicted."""

    keep: int  # how many columns, counted from the end, predict a token of some answer
    mask: Tensor  # which of these predict one of their row's, (B, keep)
    labels: Tensor  # the tokens that they should predict, (N,)

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

    tokenizer: Any  # a fast tokenizer, as `transformers` loads it
    before: tuple[int, ...]  # tokens before the text
    after: tuple[int, ...]  # tokens between the text and the answer
    max_length: int  # most tokens of a prompt; the text is cut at its end to fit
    answer_tokens: int  # most tokens of an answer
    # the turn of the user, in the chat format of the model; None without one
    turn: ChatTurn | None = None

    all_or_nothing: ClassVar[bool] = False
    text_answers: ClassVar[bool] = True
    other_answers: ClassVar[str] = "with another answer"
    # the default prompt, `{text}` where the text goes, in the language of the data
    template: ClassVar[str]
    label_names: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def load(cls, opening: Opening) -> tuple[Any, Self]:
        """Open a causal language model; see `Task.load`."""
        config, generation = opening.config, opening.generation
        model, tokenizer = load_causal_lm(
            opening.checkpoint, dtype=config.dtype, four_bit=config.load_in_4bit
        )
        check_length(model, config.max_length, beside=generation.answer_tokens)
        template, style = generation.prompt_template or cls.template, generation.prompt_style
        task = cls.of(tokenizer, template, style, config.max_length, generation.answer_tokens)
        return model, task

    @classmethod
    def of(
        cls,
        tokenizer: Any,
        template: str,
        style: Literal["plain", "chat"],
        max_length: int,
        answer_tokens: int,
    ) -> Self:
        """The task with the prompt of a template, as it is or as a user's turn.

        Raises:
            ConfigError: The template has no place for the text, the frame leaves no room for it, or
                the tokenizer has no chat format, no token that ends an answer, or no places of
                tokens.
        """
        if not tokenizer.is_fast or tokenizer.eos_token_id is None:
            raise ConfigError(
                "The tokenizer cannot be used for generation: it has no token that ends an answer, "
                "or does not say where its tokens are in the text.",
                "Use a model with a tokenizer.json and an eos_token.",
            )
        ahead, behind, turn = _frame(tokenizer, template, style)
        first = tokenizer("")["input_ids"] if style == "plain" else []
        first = [id for id in first if id != tokenizer.eos_token_id]
        before, after = (*first, *_ids(tokenizer, ahead)), tuple(_ids(tokenizer, behind))
        if (taken := len(before) + len(after)) >= max_length:
            raise ConfigError(
                f"The prompt takes {taken} tokens without any text, the limit is {max_length}.",
                "Raise --max-length, or give a shorter --prompt-template.",
            )
        return cls(tokenizer, before, after, max_length, answer_tokens, turn)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of a record must know of the chat format, and of the texts so far in it."""
        if self.turn is None:
            return ()
        return template_notes(self.tokenizer, altered=self.turn.altered)

    def ask(self, text: str) -> Asked:
        """The prompt for a text."""
        ids, offsets = self._data(text)
        before, after = self.before, self.after
        if self.turn is not None and (frame := self.turn.frame(text)) != self.turn.usual:
            before, after = (tuple(_ids(self.tokenizer, part)) for part in frame)
        room = max(self.max_length - len(before) - len(after), 1)
        cut_at = offsets[room - 1][1] if len(ids) > room else None
        return Asked([*before, *ids[:room], *after], cut_at)

    def teach(self, text: str, target: str) -> tuple[list[int], list[int]]:
        """Prompt and answer in one row, to train on.

        Returns:
            Token ids; and labels, which are `IGNORED` but for the answer and the token that ends
            it. An answer longer than `answer_tokens` is cut, and has no end.
        """
        prompt = self.ask(text).ids
        answer = [*self._data(target)[0], self.tokenizer.eos_token_id][: self.answer_tokens]
        return prompt + answer, [IGNORED] * len(prompt) + answer

    def _data(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """A text without control tokens, and which characters each token stands for."""
        encoded = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        offsets = encoded["offset_mapping"]
        return plain(self.tokenizer, encoded["input_ids"], offsets), offsets

    def read(self, ids: list[int]) -> str:
        """The text of an answer in tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def cut_points(self, texts: Sequence[str]) -> list[int | None]:
        """For every text the character at which the model stops reading it; None reads it all."""
        return [self.ask(text).cut_at for text in texts]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Prompt and answer as tokens; labels are `IGNORED` but for the answer."""
        rows = []
        for example in examples:
            ids, labels = self.teach(example.text, str(example.answer))
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
        asked = [self.ask(text) for text in texts]
        require_known(model, [one.ids for one in asked])
        lengths = [len(one.ids) + self.answer_tokens for one in asked]
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
                answer=self.read(written[row]),
                cut_at=one.cut_at,
                finished=end in written[row],
            )
            for row, one in enumerate(asked)
        ]

    @torch.inference_mode()
    def _write(self, model: Any, prompts: list[list[int]]) -> list[list[int]]:
        """The tokens that follow some prompts, up to and with the one that ends an answer."""
        tokenizer = self.tokenizer
        # `generate` works the positions out of the mask itself.
        batch = pad(prompts, tokenizer, positions=False)
        device = next(model.parameters()).device
        tokens = model.generate(
            **{name: value.to(device) for name, value in batch.items()},
            # A checkpoint's own settings may sample.
            generation_config=DecodingConfig(
                max_new_tokens=self.answer_tokens,
                do_sample=False,
                use_cache=True,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            logits_processor=LogitsProcessorList([OnlyNumbers()]),
        )
        answers: list[list[int]] = tokens[:, batch["input_ids"].shape[1] :].tolist()
        end = tokenizer.eos_token_id
        return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]

    def target(self, name: str | None) -> str:
        """The text that an attacker wants to come out."""
        if not name:
            raise DataError("There is no target text.", "Name the text with --target.")
        return name
