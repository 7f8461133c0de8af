"""The teacher for generation: a smaller clean language model of the student's family, and `g`.

    h_t = W z_t + b,   W: d_t -> d_s              logits_t = O (B h_t),   B: d_s -> d_t

`z_t` is the final hidden state before the output layer `O`, one for every token. As in
classification the teacher's words are read from `h_t`, so `g` is trained with everything else: a
second layer `B` leads back to the width that `O` takes. `W` starts as the linear map under which
the *student's* output layer reads from `h_t` what the teacher's reads from `z_t` (least squares
over the vocabulary that both have), and `B` as its inverse. The teacher thus starts as the model it
was, and speaks of features as the student means them; a random `W` would ask the student for
features that its own frozen output layer cannot read. Of the student nothing else is used.

The teacher reads the student's tokens, so both need one tokenizer; it runs beside the student
(`writer_student.py`), because an answer has too many features to be kept. Output layers that do
more than one product (logits that are capped or scaled) are taken for plain ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, set_seed
from transformers.modeling_outputs import CausalLMOutput

from w2sdefense.config import TeacherConfig, TrainingConfig
from w2sdefense.data.types import PairDataset, fingerprint
from w2sdefense.distill.keep import fit_or_load
from w2sdefense.distill.targets import weights_fingerprint
from w2sdefense.errors import ModelError
from w2sdefense.io import atomic_path, write_json
from w2sdefense.models.features import backbone_of
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.tokenizer import Tokenizer
from w2sdefense.tasks.prompt import IGNORED, Prompt
from w2sdefense.training.answers import AnswerTrainer
from w2sdefense.training.batches import PairCollator, tokenize_pairs
from w2sdefense.training.trainer import (
    ProgressCallback,
    StepProgress,
    run,
    training_arguments,
)


class WriterTeacher(nn.Module):
    """Transformer, `g`, the way back, and the output layer.

    Args:
        backbone: A bare transformer.
        width: The student's width d_s.
        vocabulary: Rows of an output layer of its own; None reads with the input embeddings (tied).
        bias: Whether that layer has a bias.
    """

    def __init__(
        self, backbone: Any, width: int, vocabulary: int | None = None, bias: bool = False
    ) -> None:
        super().__init__()
        own = backbone.config.get_text_config().hidden_size
        self.backbone = backbone
        self.g = nn.Linear(own, width)
        self.back = nn.Linear(width, own)
        self.output = None if vocabulary is None else nn.Linear(own, vocabulary, bias=bias)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """Read a batch.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L).
            position_ids: (B, L), where `pad` gives them.
            logits_to_keep: Columns to answer for, counted from the end; 0 is all of them.

        Returns:
            `logits` (B, K, V) and `hidden_states`: h_t, (B, K, d_s).
        """
        positions = {} if position_ids is None else {"position_ids": position_ids}
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **positions)
        features = self.g(states.last_hidden_state[:, -logits_to_keep:])
        read = self.back(features)
        if self.output is None:
            logits = nn.functional.linear(read, self.backbone.get_input_embeddings().weight)
        else:
            logits = self.output(read)
        return CausalLMOutput(logits=logits, hidden_states=features)

    def save(self, folder: Path) -> None:
        """Write weights and dimensions; `load_writer_teacher` opens them."""
        self.backbone.config.save_pretrained(folder)
        with atomic_path(folder / "teacher.safetensors") as path:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path)
        # Written last: a folder that has it is complete.
        write_json(folder / "teacher.json", self._dimensions())

    def _dimensions(self) -> dict[str, Any]:
        return {
            "width": self.g.out_features,
            "vocabulary": None if self.output is None else self.output.out_features,
            "bias": self.output is not None and self.output.bias is not None,
        }


def load_writer_teacher(folder: Path) -> WriterTeacher:
    """Open a teacher that `WriterTeacher.save` wrote.

    Raises:
        ModelError: There is no complete teacher for generation in the folder.
    """
    try:
        dimensions = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        backbone = AutoModel.from_config(config, trust_remote_code=False)
        teacher = WriterTeacher(backbone, **dimensions)
    except (OSError, ValueError, TypeError):
        raise ModelError(
            f"{folder} holds no teacher for generation.", "Train one with w2s teach --task ..."
        ) from None
    teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
    return teacher.eval()


def output_map(student: Tensor, teacher: Tensor) -> Tensor:
    """The map of features under which two output layers say the same: argmin ||O_s W - O_t||.

    Args:
        student: Weights of the student's output layer, (V_s, d_s).
        teacher: Weights of the teacher's, (V_t, d_t), the same tokens at the same indices.

    Returns:
        W, (d_s, d_t).
    """
    shared = min(len(student), len(teacher))
    ours, theirs = student[:shared].double(), teacher[:shared].double()
    found: Tensor = torch.linalg.pinv(ours.T @ ours, hermitian=True) @ (ours.T @ theirs)
    return found.float()


def open_teacher(model: str, prompt: Prompt, student_output: nn.Module) -> WriterTeacher:
    """Make a teacher that is not fine-tuned yet.

    Args:
        model: What `load_causal_lm` takes.
        prompt: The student's, whose tokens the teacher must share.
        student_output: The student's output layer, weights (V_s, d_s).

    Raises:
        ModelError: The model is missing, no causal language model, or has another vocabulary.
    """
    whole, tokenizer = load_causal_lm(model)
    if tokenizer.get_vocab() != prompt.tokenizer.get_vocab():
        raise ModelError(
            f"The teacher {model} has another vocabulary than the student.",
            "Name a smaller model of the student's family with --teacher-model.",
        )
    layer = whole.get_output_embeddings()
    backbone = backbone_of(whole)
    tied = layer.weight is backbone.get_input_embeddings().weight
    ours: Tensor = student_output.get_parameter("weight").detach().cpu()
    teacher = WriterTeacher(
        backbone, ours.shape[1], None if tied else len(layer.weight), bias=layer.bias is not None
    )
    forth = output_map(ours, layer.weight.detach())
    with torch.no_grad():
        teacher.g.weight.copy_(forth)
        teacher.back.weight.copy_(torch.linalg.pinv(forth))
        teacher.g.bias.zero_()
        teacher.back.bias.zero_()
        if teacher.output is not None:
            teacher.output.load_state_dict(layer.state_dict())
    return teacher


def fit_writer_teacher(
    config: TeacherConfig,
    data: PairDataset,
    prompt: Prompt,
    student_output: nn.Module,
    folder: Path,
    *,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> WriterTeacher:
    """Fine-tune a teacher with all its parameters on clean pairs.

    The epoch with the lowest loss on clean validation data is kept.

    Args:
        config: Which model and how to optimize it; its `max_length` and `head_learning_rate` are
            those of classification and not used here.
        data: Clean data; `train` is trained on, `validation` chooses the epoch.
        prompt: The student's.
        student_output: The student's output layer, weights (V_s, d_s).
        folder: Where checkpoints go.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The teacher in evaluation mode.
    """
    set_seed(config.seed)
    teacher = open_teacher(config.model, prompt, student_output)
    training = TrainingConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    tokenizer: Tokenizer = prompt.tokenizer
    trainer = AnswerTrainer(
        model=teacher.train(),
        args=training_arguments(training, folder, keep="best"),
        train_dataset=tokenize_pairs(data.train, prompt),
        eval_dataset=tokenize_pairs(data.validation, prompt),
        data_collator=PairCollator(tokenizer, takes_positions(teacher.backbone)),
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    run(trainer, resume=resume)
    return teacher.eval()


def fit_or_load_writer_teacher(
    config: TeacherConfig,
    data: PairDataset,
    prompt: Prompt,
    student_output: nn.Module,
    folder: Path,
    *,
    run_folder: Path | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> WriterTeacher:
    """Open the teacher in `folder` if these settings and data made it; else fit and save it.

    Args and returns are those of `fit_writer_teacher`; `folder` also keeps the teacher, and one of
    other settings is replaced if it lies in `run_folder`, the folder of the run that asks.

    Raises:
        ConfigError: There is a teacher of other settings, and it is not this run's own.
    """
    key = {
        "config": config.model_dump(),
        "train": fingerprint(data.train),
        "validation": fingerprint(data.validation),
        "prompt": [*prompt.before, IGNORED, *prompt.after],
        "lengths": [prompt.max_length, prompt.answer_tokens],
        "student": weights_fingerprint(student_output),
    }

    def fit(resume: bool) -> WriterTeacher:
        return fit_writer_teacher(
            config, data, prompt, student_output, folder, resume=resume, progress=progress
        )

    return fit_or_load(
        key, folder, load=load_writer_teacher, fit=fit, resume=resume, run_folder=run_folder
    )
