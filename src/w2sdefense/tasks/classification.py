"""Classification: the answer is a label, which a head computes from one position of the text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from w2sdefense.data.types import Answer, Example, texts_of
from w2sdefense.errors import DataError
from w2sdefense.models.features import FeatureTap
from w2sdefense.models.load import load_classifier
from w2sdefense.models.tokenizer import (
    Tokenizer,
    encode,
    length_batches,
    pad,
    position_limit,
    require_known,
    takes_positions,
)
from w2sdefense.models.weights import require_numbers
from w2sdefense.tasks.base import Opening, Output, Prediction, Row, model_inputs
from w2sdefense.text.chat_template import template_notes

BATCH_TOKENS = 2048  # maximum number of tokens in one forward pass, including padding


@dataclass(frozen=True)
class Classification:
    """Maps the first `max_length` tokens of a text to a label; decoders pad on the left."""

    tokenizer: Tokenizer
    label_names: tuple[str, ...]
    max_length: int = 128

    name: ClassVar[str] = "classification"
    metric: ClassVar[str] = "accuracy"
    metric_name: ClassVar[str] = "accuracy"
    all_or_nothing: ClassVar[bool] = True
    text_answers: ClassVar[bool] = False
    other_answers: ClassVar[str] = "of other classes"
    default_target: ClassVar[str | None] = None

    @classmethod
    def load(cls, opening: Opening) -> tuple[Any, Self]:
        """Open a sequence classifier; see `Task.load`."""
        config = opening.config
        model, tokenizer = load_classifier(
            opening.checkpoint,
            label_names=opening.label_names,
            fresh_head=opening.fresh_head,
            dtype=config.dtype,
            four_bit=config.load_in_4bit,
        )
        names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
        # A model cannot read beyond the last position that it was trained on.
        longest = min(config.max_length, position_limit(model) or config.max_length)
        return model, cls(tokenizer, names, longest)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the chat template: classification does not use it, but it stays in the model."""
        return template_notes(self.tokenizer)

    def cut_points(self, texts: Sequence[str]) -> list[int | None]:
        """See `Task.cut_points`."""
        return encode(self.tokenizer, texts, self.max_length)[1]

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """Tokenize examples: `input_ids`, and the label index as `labels`."""
        tokens, _ = encode(self.tokenizer, texts_of(examples), self.max_length)
        return [
            {"input_ids": ids, "labels": example.label}
            for ids, example in zip(tokens, examples, strict=True)
        ]

    def output(self, model: nn.Module, tap: FeatureTap, batch: Mapping[str, Tensor]) -> Output:
        """One row per text: the logits, and the feature at the position that the head reads."""
        logits = tap.logits(model(**model_inputs(batch)).logits)
        return Output(logits, tap.feature(), batch["labels"], tap.token_states())

    def predict(
        self, model: Any, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text; see `Task.predict`.

        Batches hold texts of similar length, which avoids padding. One forward pass gives both the
        answer and the feature.
        """
        tokens, cut_at = encode(self.tokenizer, texts, self.max_length)
        require_known(model, tokens)
        predictions: dict[int, Prediction] = {}
        was_training = model.training
        model.eval()
        positions, device = takes_positions(model), next(model.parameters()).device
        with torch.inference_mode(), FeatureTap(model) as tap:
            for rows in length_batches([len(ids) for ids in tokens], BATCH_TOKENS):
                batch = pad([tokens[row] for row in rows], self.tokenizer, positions=positions)
                output = model(**{name: value.to(device) for name, value in batch.items()})
                logits, features = tap.logits(output.logits).cpu(), tap.feature().cpu()
                require_numbers(logits)
                probabilities = logits.softmax(-1).tolist()
                for place, row in enumerate(rows):
                    predictions[row] = Prediction(
                        answer=int(logits[place].argmax()),
                        cut_at=cut_at[row],
                        probabilities=tuple(probabilities[place]),
                        feature=features[place],
                    )
                if progress is not None:
                    progress(len(rows))
        model.train(was_training)
        return [predictions[row] for row in range(len(tokens))]

    def target(self, name: str | None) -> int:
        """Index of a label by its name."""
        if name is None or name not in self.label_names:
            raise DataError(
                f"There is no label {name!r}; the labels are {', '.join(self.label_names)}.",
                "Choose one of them with --target.",
            )
        return self.label_names.index(name)

    @staticmethod
    def scores(answer: Answer, reference: Answer) -> dict[str, float]:
        """`accuracy`: 1 if the label is right, else 0."""
        return {"accuracy": float(answer == reference)}

    @staticmethod
    def is_target(answer: Answer, target: Answer) -> bool:
        """Whether the answer is the target label."""
        return answer == target
