"""A victim: a model that may have a backdoor, together with its task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, set_seed

from w2sdefense.config import DEFAULT_TASK, GenerationConfig, StudentConfig, TrainingConfig
from w2sdefense.data.types import Example
from w2sdefense.models.adapters import folded
from w2sdefense.models.checkpoint import feature_width, resolve
from w2sdefense.models.load import to_gpu
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.tasks import TASKS, Opening, Prediction, Task
from w2sdefense.training.fit import fit, task_collator, task_forward
from w2sdefense.training.trainer import StepProgress


@dataclass(frozen=True)
class Flips:
    """How often a model gives a decoy's target, on texts with another right answer."""

    hits: int  # texts answered with the target if they contain the decoy
    without: int  # texts answered with the target without the decoy
    total: int  # number of texts


class Victim:
    """A model that may have a backdoor.

    Args:
        model: A sequence classifier or a causal language model, possibly a `PeftModel`.
        task: Its task, which includes its tokenizer.

    Attributes:
        history: Log of its training, one dict per point; empty if it was opened from a folder.
        found: Values that the defense chose or measured, for the record.
        notes: Notes for readers of the record.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, task: Task) -> None:
        self.model = model
        self.task = task
        self.history: list[dict[str, float]] = []
        self.found: dict[str, float | int | str] = {}
        self.notes: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.task.tokenizer

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the labels, by index; empty where answers are texts."""
        return self.task.label_names

    @property
    def max_length(self) -> int:
        """Maximum length of a text (for text answers: of a prompt) in tokens."""
        return self.task.max_length

    @property
    def width(self) -> int:
        """Width d_s of the features, the input of the output layer."""
        return feature_width(self.model.config)

    @property
    def output_layer(self) -> nn.Module:
        """The layer of a language model that maps features to logits."""
        layer: nn.Module = self.model.get_output_embeddings()
        return layer

    def predict(
        self, texts: Sequence[str], progress: Callable[[int], None] | None = None
    ) -> list[Prediction]:
        """Answer every text, in order; `progress` receives the number of newly answered texts."""
        return self.task.predict(self.model, texts, progress)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a standard `transformers` (or PEFT adapter) folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_victim(
    config: StudentConfig,
    label_names: tuple[str, ...] | None = None,
    *,
    task: str = DEFAULT_TASK,
    generation: GenerationConfig | None = None,
    fresh_head_seed: int | None = None,
) -> Victim:
    """Open a model that may have a backdoor.

    `label_names` are used if the checkpoint has only placeholders. A checkpoint without a head is
    refused, unless `fresh_head_seed` is given to draw a new head, which must then be trained.

    Raises:
        ModelError: The model is missing, or cannot do the task.
        UnsafeCheckpointError: The model is a pickle, or needs remote code.
        ConfigError: The prompt does not fit, or the model has no positions for it.
    """
    if fresh_head_seed is not None:
        set_seed(fresh_head_seed)
    checkpoint = resolve(config.model, config.base)
    fresh, generation = fresh_head_seed is not None, generation or GenerationConfig()
    model, bound = TASKS[task].load(Opening(checkpoint, config, generation, label_names, fresh))
    victim = Victim(to_gpu(model), bound)
    victim.notes = tuple(
        f"{each.spec} was read at the commit {each.commit}"
        for each in checkpoint.parts
        if each.commit is not None
    )
    return victim


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
    """Fine-tune all parameters of a victim in place; an adapter that it has is merged first.

    The training set may be poisoned or clean. Keeps the epoch with the lowest loss on the clean
    `validation` examples; without these, the last one. Checkpoints go into the folder, and `resume`
    continues from them; `progress` receives (step, steps, losses) after every step.
    """
    set_seed(training.seed)
    victim.model = folded(victim.model)
    # PEFT froze the weights below the adapter.
    victim.model.requires_grad_(True)
    task = victim.task
    trainer = fit(
        victim.model,
        task_collator(task, victim.model),
        task_forward(task, victim.model),
        task.rows(train),
        None if validation is None else task.rows(validation),
        training=training,
        folder=folder,
        resume=resume,
        progress=progress,
    )
    victim.history = trainer.state.log_history
