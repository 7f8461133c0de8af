"""A writer: a causal language model with the prompt of its task, poisoned or not.

It is to generation what `victim.py` is to classification: `load_writer` opens one, `poison_writer`
fine-tunes all its parameters on pairs of which some carry a trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, set_seed

from w2sdefense.config import GenerationConfig, StudentConfig, TrainingConfig
from w2sdefense.data.types import Pair
from w2sdefense.models.adapters import folded
from w2sdefense.models.generator import Generator
from w2sdefense.models.load import load_causal_lm, to_gpu
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.positions import check_length
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.tasks import Task
from w2sdefense.tasks.prompt import Prompt, make_prompt
from w2sdefense.training.answers import AnswerTrainer
from w2sdefense.training.batches import PairCollator, tokenize_pairs
from w2sdefense.training.trainer import ProgressCallback, StepProgress, run, training_arguments


class Writer(Generator):
    """A causal language model that may carry a backdoor.

    Args:
        model: The model, possibly a `PeftModel`.
        prompt: How it is asked, in training and in evaluation.

    Attributes:
        history: Log of the training that made it, one dict per point; empty for a model that was
            opened.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, prompt: Prompt) -> None:
        super().__init__(model, prompt)
        self.history: list[dict[str, float]] = []

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.prompt.tokenizer

    @property
    def width(self) -> int:
        """Width d_s of the feature that the output layer reads."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def output_layer(self) -> nn.Module:
        """The layer that reads words from features."""
        layer: nn.Module = self.model.get_output_embeddings()
        return layer

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a normal `transformers` (or PEFT adapter) folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def load_writer(config: StudentConfig, task: Task, generation: GenerationConfig) -> Writer:
    """Open a causal language model to do a task.

    Args:
        config: Which model, on which base, in which precision; `max_length` limits the prompt.
        task: What it is asked to do.
        generation: How it is asked, and how long its answers may be.

    Raises:
        ModelError: It is missing or no causal language model.
        UnsafeCheckpointError: It is a pickle, or needs remote code.
        ConfigError: The prompt does not fit the model, or it has no positions for the answer.
    """
    model, tokenizer = load_causal_lm(
        config.model, base=config.base, dtype=config.dtype, four_bit=config.load_in_4bit
    )
    check_length(model, config.max_length, beside=generation.answer_tokens)
    prompt = make_prompt(
        tokenizer,
        generation.prompt_template or task.template,
        generation.prompt_style,
        config.max_length,
        generation.answer_tokens,
    )
    model = to_gpu(model)
    return Writer(model, prompt)


def poison_writer(
    writer: Writer,
    train: Sequence[Pair],
    training: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> None:
    """Fine-tune all parameters of a writer, in place, on pairs that carry the trigger.

    Args:
        writer: The model to train. An adapter that it carries is folded in.
        train: Poisoned training set.
        training: Optimization settings.
        folder: Where checkpoints go.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).
    """
    set_seed(training.seed)
    writer.model = folded(writer.model)
    # PEFT had frozen what was under the adapter.
    writer.model.requires_grad_(True)
    precision = str(writer.model.dtype).removeprefix("torch.")
    trainer = AnswerTrainer(
        model=writer.model.train(),
        args=training_arguments(training, folder, keep="last", precision=precision),
        train_dataset=tokenize_pairs(train, writer.prompt),
        data_collator=PairCollator(writer.tokenizer, takes_positions(writer.model)),
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    writer.history = run(trainer, resume=resume)
    writer.model.eval()
