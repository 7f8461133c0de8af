"""Tasks whose answer is text, which a causal language model writes after a prompt.

Answers stand at the end of left-padded rows, so training computes the logits of the last columns
only. With a vocabulary of 150,000 this saves most of the memory. Decoding is greedy, with the KV
cache, so an answer depends on the text alone.

Training and evaluation use the same prompt. Frame, text and answer are tokenized separately
(control tokens that are spelled out in text or answer become plain characters). The tokens of a
prompt therefore do not depend on what follows it, and only the *text* is cut to fit a limit. In
style `chat`, the template is the user's turn in the chat format of the model. It is rendered for
every text, because a chat template may treat some texts differently.
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

BATCH_TOKENS = 8192  # maximum number of tokens in one batch, including padding and answers


@dataclass(frozen=True, slots=True)
class Asked:
    """The tokens of a prompt, and the character at which its text was cut; None if it was not."""

    ids: list[int]
    cut_at: int | None


def _frame(
    tokenizer: Any, template: str, style: Literal["plain", "chat"]
) -> tuple[str, str, ChatTurn | None]:
    """The prompt before and after the text, and its chat turn; None in plain style."""
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
    """The positions at which a batch predicts the N tokens of its answers."""

    keep: int  # number of columns, counted from the end, that predict a token of any answer
    mask: Tensor  # which of these positions predict an answer token of their row, (B, keep)
    labels: Tensor  # the tokens that they should predict, (N,)

    @classmethod
    def of(cls, labels: Tensor) -> AnswerPlaces:
        """Find the answers in labels (B, L), which are `IGNORED` except for the answers.

        A token is predicted one column before its own.
        """
        shifted = labels[:, 1:]
        answered = shifted != IGNORED
        columns = answered.any(0).nonzero()
        keep = shifted.shape[1] - int(columns[0]) if len(columns) else 1
        mask = answered[:, -keep:]
        return cls(keep, mask, shifted[:, -keep:][mask])

    def pick(self, values: Tensor) -> Tensor:
        """The values at these positions: (B, at least keep + 1, d) to (N, d), in float32."""
        # The last column is dropped: no token of the row follows it.
        return values[:, -self.keep - 1 : -1][self.mask].float()


@dataclass(frozen=True)
class Generation:
    """Base class of text tasks: a prompt and a text answer; subclasses add the scores."""

    tokenizer: Any  # a fast tokenizer, as `transformers` loads it
    before: tuple[int, ...]  # tokens before the text
    after: tuple[int, ...]  # tokens between the text and the answer
    max_length: int  # maximum tokens of a prompt; the end of the text is cut to fit
    answer_tokens: int  # maximum tokens of an answer
    # the user's turn in the chat format of the model; None in plain style
    turn: ChatTurn | None = None

    all_or_nothing: ClassVar[bool] = False
    text_answers: ClassVar[bool] = True
    other_answers: ClassVar[str] = "with another answer"
    # the default prompt in the language of the data, with `{text}` for the text
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
        """Create the task from a prompt template, in plain style or as a user's chat turn.

        Raises:
            ConfigError: The template does not contain `{text}` exactly once, the frame leaves no
                room for the text, or the tokenizer has no chat format, end token or offsets.
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
        """Notes on the chat format, and on the texts that its template has altered so far."""
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
        """Prompt and answer as one training row.

        Returns:
            Token ids; and labels, which are `IGNORED` except for the answer and its end token. An
            answer that exceeds `answer_tokens` is cut and has no end token.
        """
        prompt = self.ask(text).ids
        answer = [*self._data(target)[0], self.tokenizer.eos_token_id][: self.answer_tokens]
        return prompt + answer, [IGNORED] * len(prompt) + answer

    def _data(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The tokens of a text without control tokens, and the character span of each token."""
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
        """Decode an answer."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def cut_points(self, texts: Sequence[str]) -> list[int | None]:
        """See `Task.cut_points`."""
        return [self.ask(text).cut_at for text in texts]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenize prompts and answers, see `teach`."""
        rows = []
        for example in examples:
            ids, labels = self.teach(example.text, str(example.answer))
            rows.append({"input_ids": ids, "labels": labels})
        return rows

    def output(self, model: nn.Module, tap: FeatureTap, batch: Mapping[str, Tensor]) -> Output:
        """One row per answer token: the logits that predict it, and their hidden state."""
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
        """Generate the tokens after some prompts, up to and including the end token."""
        tokenizer = self.tokenizer
        # `generate` computes the positions from the mask.
        batch = pad(prompts, tokenizer, positions=False)
        device = next(model.parameters()).device
        tokens = model.generate(
            **{name: value.to(device) for name, value in batch.items()},
            # The generation config of a checkpoint may enable sampling.
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
        """The attacker's target text."""
        if not name:
            raise DataError("There is no target text.", "Name the text with --target.")
        return name
