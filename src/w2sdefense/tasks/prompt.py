"""One prompt for training and evaluation, as tokens: the frame, the text in it, the answer behind.

Each is cut into tokens by itself (control tokens spelt in text and answer are split into plain
characters), so a prompt is the same tokens whatever follows it, and only the *text* is shortened
where a limit demands it. With `chat` the template is the user's turn in the chat format of the
model, which is rendered with every text: a chat template may treat some of them otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from w2sdefense.config import TEXT_SLOT
from w2sdefense.errors import ConfigError
from w2sdefense.models.tokenizer import plain
from w2sdefense.text.chat_template import ChatTurn, template_notes

IGNORED = -100
"""Label of a token that is no part of an answer; the value that the cross entropy passes over."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt in tokens, and the character at which the text was cut to fit, if it was."""

    ids: list[int]
    cut_at: int | None


@dataclass(frozen=True)
class Prompt:
    """The prompt of a task for one tokenizer.

    Attributes:
        tokenizer: A fast tokenizer, as `transformers` loads it.
        before: Tokens before the text.
        after: Tokens between the text and the answer.
        max_length: Most tokens of a prompt; the text is cut at its end to fit.
        answer_tokens: Most tokens of an answer.
        turn: The turn of the user, in the chat format of the model; None without one.
    """

    tokenizer: Any
    before: tuple[int, ...]
    after: tuple[int, ...]
    max_length: int
    answer_tokens: int
    turn: ChatTurn | None = None

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


def make_prompt(
    tokenizer: Any,
    template: str,
    style: Literal["plain", "chat"],
    max_length: int,
    answer_tokens: int,
) -> Prompt:
    """The prompt of a template, as it is or as a user's turn.

    Raises:
        ConfigError: The template has no place for the text, the frame leaves no room for it, or the
            tokenizer has no chat format, no token that ends an answer, or no places of tokens.
    """
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise ConfigError(
            "The tokenizer cannot be used for generation: it has no token that ends an answer, or "
            "does not say where its tokens are in the text.",
            "Use a model with a tokenizer.json and an eos_token.",
        )
    before, after, turn = _frame(tokenizer, template, style)
    first = tokenizer("")["input_ids"] if style == "plain" else []
    prompt = Prompt(
        tokenizer,
        tuple([*(id for id in first if id != tokenizer.eos_token_id), *_ids(tokenizer, before)]),
        tuple(_ids(tokenizer, after)),
        max_length,
        answer_tokens,
        turn,
    )
    taken = len(prompt.before) + len(prompt.after)
    if taken >= max_length:
        raise ConfigError(
            f"The prompt takes {taken} tokens without any text, the limit is {max_length}.",
            "Raise --max-length, or give a shorter --prompt-template.",
        )
    return prompt


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
