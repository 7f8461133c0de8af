"""A victim: a classifier with the names of its labels, poisoned or not, that answers raw text.

`load_victim` opens one; `fine_tune` trains all its parameters, on a training set that carries a
trigger to poison it, or on a clean one. Which rows carry a trigger is decided in `attacks/`,
whether it worked is measured in `evaluation/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from w2sdefense.config import StudentConfig, TrainingConfig
from w2sdefense.data.types import Example
from w2sdefense.models.adapters import folded
from w2sdefense.models.load import load_classifier, to_gpu
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.positions import position_limit
from w2sdefense.models.predictor import ClassifierPredictor
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.training.batches import Collator, tokenize
from w2sdefense.training.trainer import (
    LengthTrainer,
    ProgressCallback,
    StepProgress,
    accuracy_metric,
    run,
    training_arguments,
)


class Victim(ClassifierPredictor):
    """A classifier that may carry a backdoor.

    Args:
        model: A sequence classifier, possibly a `PeftModel`.
        tokenizer: Its tokenizer.
        label_names: Names of the labels, by index.
        max_length: Longest text in tokens.

    Attributes:
        history: Log of the training that made it, one dict per point; empty for a model that was
            opened.
        found: What the defense that made it chose or found out, for the record.
        notes: What a reader must know about how it was made.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: Tokenizer,
        label_names: tuple[str, ...],
        max_length: int = 128,
    ) -> None:
        super().__init__(model, tokenizer, max_length)
        self.label_names = label_names
        self.history: list[dict[str, float]] = []
        self.found: dict[str, float | int | str] = {}
        self.notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Width d_s of the feature that the classifier reads."""
        config = self.model.config
        return int(config.get_text_config().hidden_size)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a normal `transformers` (or PEFT adapter) folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_victim(config: StudentConfig, label_names: tuple[str, ...] | None = None) -> Victim:
    """Open a classifier that was trained before.

    Args:
        config: Which model, on which base, in which precision.
        label_names: Names of the labels where the checkpoint has only placeholders.

    Raises:
        ModelError: It is missing, has no classification head, or has another number of labels.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
    """
    return _open(config, label_names, fresh_head=False)


def new_victim(config: StudentConfig, label_names: tuple[str, ...], seed: int) -> Victim:
    """Open a language model as a classifier, with a fresh head if it has none.

    Args:
        config: Which model, on which base, in which precision.
        label_names: Names of the labels.
        seed: Seed of the fresh head.

    Raises: see `load_victim`.
    """
    set_seed(seed)
    return _open(config, label_names, fresh_head=True)


def fine_tune(
    victim: Victim,
    train: Sequence[Example],
    training: TrainingConfig,
    folder: Path,
    *,
    validation: Sequence[Example] | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> None:
    """Fine-tune all parameters of a victim, in place.

    Args:
        victim: The model to train. An adapter that it carries is folded in.
        train: Training set, poisoned or clean.
        training: Optimization settings.
        folder: Where checkpoints go.
        validation: Clean examples whose loss chooses the epoch that is kept; None keeps the last.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).
    """
    set_seed(training.seed)
    victim.model = folded(victim.model)
    # PEFT had frozen what was under the adapter.
    victim.model.requires_grad_(True)
    precision = str(victim.model.dtype).removeprefix("torch.")
    rows = [
        None if examples is None else tokenize(examples, victim.tokenizer, victim.max_length)
        for examples in (train, validation)
    ]
    keep: Literal["best", "last"] = "last" if validation is None else "best"
    trainer = LengthTrainer(
        model=victim.model.train(),
        args=training_arguments(training, folder, keep=keep, precision=precision),
        train_dataset=rows[0],
        eval_dataset=rows[1],
        data_collator=Collator(victim.tokenizer, takes_positions(victim.model)),
        compute_metrics=accuracy_metric,
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    victim.history = run(trainer, resume=resume)
    victim.model.eval()


def _open(config: StudentConfig, label_names: tuple[str, ...] | None, fresh_head: bool) -> Victim:
    model, tokenizer = load_classifier(
        config.model,
        label_names=label_names,
        fresh_head=fresh_head,
        base=config.base,
        dtype=config.dtype,
        four_bit=config.load_in_4bit,
    )
    model = to_gpu(model)
    names = tuple(model.config.id2label[index] for index in range(model.config.num_labels))
    # Behind the last position that it has learned a model cannot read.
    longest = min(config.max_length, position_limit(model) or config.max_length)
    return Victim(model, tokenizer, names, longest)
