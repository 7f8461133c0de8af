"""The small clean teacher: a transformer, the layer `g` to the student's width, and a classifier.

    h_t = W z_t + b,   W: d_t -> d_s              logits_t = C h_t                      (paper,
    Section 4)

`z_t` is the final hidden state at the position that a classifier of the architecture reads. All
parameters are fine-tuned on clean data (`fit_teacher`); what the teacher then says of every text is
computed once (`distill/targets.py`). Nothing here knows of a student but its width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from w2sdefense.config import TeacherConfig, TrainingConfig
from w2sdefense.data.types import TextDataset, fingerprint
from w2sdefense.distill.keep import fit_or_load
from w2sdefense.distill.pieces import refuse_pieces
from w2sdefense.io import atomic_path, write_json
from w2sdefense.models.load import load_backbone
from w2sdefense.models.padding import takes_positions
from w2sdefense.models.reading import reading
from w2sdefense.models.tokenizer import Tokenizer, load_tokenizer, reads_last_token
from w2sdefense.models.weights import require_finite
from w2sdefense.training.batches import Collator, tokenize
from w2sdefense.training.trainer import (
    LengthTrainer,
    ProgressCallback,
    StepProgress,
    accuracy_metric,
    run,
    training_arguments,
)


class Teacher(nn.Module):
    """Transformer, `g` and classifier.

    Args:
        backbone: A bare transformer.
        tokenizer: Its tokenizer.
        width: The student's width d_s.
        labels: Number of labels C.
        max_length: Longest text in teacher tokens.
        relu: Whether the classifier reads ReLU(h_t), as in the authors' published script.
    """

    def __init__(
        self,
        backbone: Any,
        tokenizer: Tokenizer,
        width: int,
        labels: int,
        max_length: int,
        relu: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        if getattr(backbone, "pooler", None) is not None:
            # BERT's pooler is not read here; DDP waits for gradients that it would never get.
            backbone.pooler = None
        self.g = nn.Linear(backbone.config.hidden_size, width)
        self.classifier = nn.Linear(width, labels)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.relu = relu
        self._position = -1 if reads_last_token(backbone.config) else 0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify a batch.

        Args:
            input_ids: (B, L).
            attention_mask: (B, L).
            position_ids: (B, L), where `pad` gives them.
            labels: True label indices (B,), for the loss.

        Returns:
            `loss` (with labels), `logits` (B, C), and `hidden_states`: h_t before any ReLU, (B,
            d_s).
        """
        positions = {} if position_ids is None else {"position_ids": position_ids}
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **positions)
        feature = self.g(states.last_hidden_state[:, self._position])
        logits = self.classifier(feature.relu() if self.relu else feature)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=feature)

    def save(self, folder: Path) -> None:
        """Write weights, tokenizer and dimensions; `load_teacher` opens them."""
        self.backbone.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        with atomic_path(folder / "teacher.safetensors") as path:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path)
        # Written last: a folder that has it is complete.
        write_json(folder / "teacher.json", self._dimensions())

    def _dimensions(self) -> dict[str, Any]:
        return {
            "width": self.g.out_features,
            "labels": self.classifier.out_features,
            "max_length": self.max_length,
            "relu": self.relu,
        }


def load_teacher(folder: Path) -> Teacher:
    """Open a teacher that `Teacher.save` wrote.

    Raises:
        ModelError: There is no complete teacher in the folder.
    """
    fix = "Remove the folder, and train a teacher with w2s teach."
    with reading(folder, "holds no teacher that can be opened", fix):
        dimensions = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        backbone = AutoModel.from_config(config, trust_remote_code=False)
        tokenizer = load_tokenizer(folder, str(folder), backbone)
        teacher = Teacher(backbone, tokenizer, **dimensions)
        teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
    require_finite(teacher, str(folder))
    return teacher.eval()


def fit_teacher(
    config: TeacherConfig,
    data: TextDataset,
    width: int,
    folder: Path,
    *,
    relu: bool = False,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> Teacher:
    """Fine-tune a teacher with all its parameters on clean data.

    The epoch that is best on clean validation data is kept.

    Args:
        config: Which model and how to optimize it.
        data: Clean data; `train` is trained on, `validation` chooses the epoch.
        width: The student's width d_s.
        folder: Where checkpoints go.
        relu: See `Teacher`.
        resume: Continue from a checkpoint in `folder`.
        progress: Called after every step with (step, steps, losses).

    Returns:
        The teacher in evaluation mode.

    Raises:
        ConfigError: Models are cut (FSDP, DeepSpeed).
    """
    refuse_pieces("The training of a teacher")
    set_seed(config.seed)
    backbone, tokenizer = load_backbone(config.model)
    teacher = Teacher(backbone, tokenizer, width, len(data.label_names), config.max_length, relu)
    training = TrainingConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    trainer = LengthTrainer(
        model=teacher.train(),
        args=training_arguments(training, folder, keep="best"),
        train_dataset=tokenize(data.train, tokenizer, config.max_length),
        eval_dataset=tokenize(data.validation, tokenizer, config.max_length),
        data_collator=Collator(tokenizer, takes_positions(backbone)),
        compute_metrics=accuracy_metric,
        optimizers=(_optimizer(teacher, config, training), None),
        callbacks=[ProgressCallback(progress)] if progress else None,
    )
    run(trainer, resume=resume)
    return teacher.eval()


def fit_or_load_teacher(
    config: TeacherConfig,
    data: TextDataset,
    width: int,
    folder: Path,
    *,
    relu: bool = False,
    run_folder: Path | None = None,
    resume: bool = False,
    progress: StepProgress | None = None,
) -> Teacher:
    """Open the teacher in `folder` if these settings and data made it; else fit and save it.

    Args and returns are those of `fit_teacher`; `folder` also keeps the teacher, and one of other
    settings is replaced if it lies in `run_folder`, the folder of the run that asks.

    Raises:
        ConfigError: There is a teacher of other settings, and it is not this run's own.
    """
    key = {
        "config": config.model_dump(),
        "train": fingerprint(data.train),
        "validation": fingerprint(data.validation),
        "width": width,
        "relu": relu,
    }

    def fit(resume: bool) -> Teacher:
        return fit_teacher(config, data, width, folder, relu=relu, resume=resume, progress=progress)

    return fit_or_load(
        key, folder, load=load_teacher, fit=fit, resume=resume, run_folder=run_folder
    )


def _optimizer(
    teacher: Teacher, config: TeacherConfig, training: TrainingConfig
) -> torch.optim.Optimizer:
    """AdamW with a rate of its own for the fresh layers, which have further to go."""
    fresh = [*teacher.g.parameters(), *teacher.classifier.parameters()]
    return torch.optim.AdamW(
        [
            {"params": list(teacher.backbone.parameters()), "lr": config.learning_rate},
            {"params": fresh, "lr": config.head_learning_rate},
        ],
        weight_decay=training.weight_decay,
    )
