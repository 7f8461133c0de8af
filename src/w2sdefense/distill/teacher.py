"""The small clean teacher: a transformer, a layer `g` to the student's width, and an output layer.

    h_t = W z_t + b,   W: d_t -> d_s                                         (paper, Section 4)

For labels (`LabelTeacher`), `z_t` is the final hidden state at the position that a classifier of
this architecture reads, and the classifier reads `h_t`. For texts (`TokenTeacher`), every token has
a `z_t`, and the output layer reads `B h_t` through a second layer `B: d_s -> d_t`. `W` is
initialized so that the *student's* output layer computes from `h_t` what the teacher's computes
from `z_t` (least squares over the shared vocabulary), and `B` as the pseudo-inverse of `W`. A
random `W` would ask the student for features that its own frozen output layer cannot read. A token
teacher reads the student's tokens, so both need the same tokenizer. Capping or scaling of logits in
output layers is ignored.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from w2sdefense.distill.losses import TeacherOutput
from w2sdefense.errors import ModelError, reading
from w2sdefense.io import atomic_path, write_json
from w2sdefense.models.features import backbone_of
from w2sdefense.models.load import load_causal_lm
from w2sdefense.models.tokenizer import Tokenizer, load_tokenizer, reads_last_token
from w2sdefense.models.weights import require_finite

TEACHER = "teacher.json"
"""File that marks a folder as holding a complete teacher."""


class Teacher(nn.Module):
    """A transformer and `g`; subclasses add the layers that read the features.

    Args:
        backbone: A bare transformer.
        width: The student's width d_s.
    """

    def __init__(self, backbone: Any, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        if getattr(backbone, "pooler", None) is not None:
            # BERT's pooler is unused and would get no gradients, for which DDP would wait.
            backbone.pooler = None
        self.g = nn.Linear(backbone.config.get_text_config().hidden_size, width)

    @property
    def config(self) -> Any:
        """The config of the transformer."""
        return self.backbone.config

    def states(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """Final hidden states, (B, L, d_t)."""
        positions = {} if position_ids is None else {"position_ids": position_ids}
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **positions)
        found: Tensor = states.last_hidden_state
        return found

    def save(self, folder: Path) -> None:
        """Write weights and dimensions; `load_teacher` opens them."""
        self.backbone.config.save_pretrained(folder)
        with atomic_path(folder / "teacher.safetensors") as path:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, path)
        # Written last, so that a folder with this file is complete.
        write_json(folder / TEACHER, self.dimensions())

    def dimensions(self) -> dict[str, Any]:
        """Constructor arguments with which `load_teacher` makes an untrained teacher."""
        raise NotImplementedError


class LabelTeacher(Teacher):
    """A teacher that answers with labels.

    Args:
        backbone: A bare transformer.
        tokenizer: Its tokenizer.
        width: The student's width d_s.
        labels: Number of labels C.
        max_length: Maximum text length in teacher tokens.
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
        super().__init__(backbone, width)
        self.classifier = nn.Linear(width, labels)
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.relu = relu
        self._position = -1 if reads_last_token(backbone.config) else 0

    def forward(self, **inputs: Tensor) -> TeacherOutput:
        """Classify a batch.

        Args:
            **inputs: Output of `pad`, (B, L) each.

        Returns:
            `logits` (B, C), and `features`: h_t before any ReLU, (B, d_s).
        """
        feature = self.g(self.states(**inputs)[:, self._position])
        return TeacherOutput(self.classifier(feature.relu() if self.relu else feature), feature)

    def save(self, folder: Path) -> None:
        """Write tokenizer, weights and dimensions."""
        self.tokenizer.save_pretrained(folder)
        super().save(folder)

    def dimensions(self) -> dict[str, Any]:
        """See `Teacher.dimensions`."""
        return {
            "width": self.g.out_features,
            "labels": self.classifier.out_features,
            "max_length": self.max_length,
            "relu": self.relu,
        }


class TokenTeacher(Teacher):
    """A teacher that writes text.

    Args:
        backbone: A bare transformer.
        width: The student's width d_s.
        vocabulary: Rows of a separate output layer; None uses the input embeddings (tied).
        bias: Whether the separate output layer has a bias.
    """

    def __init__(
        self, backbone: Any, width: int, vocabulary: int | None = None, bias: bool = False
    ) -> None:
        super().__init__(backbone, width)
        own = backbone.config.get_text_config().hidden_size
        self.back = nn.Linear(width, own)
        self.output = None if vocabulary is None else nn.Linear(own, vocabulary, bias=bias)

    def forward(self, *, logits_to_keep: int = 0, **inputs: Tensor) -> TeacherOutput:
        """Compute the logits and features of a batch.

        Args:
            logits_to_keep: Number K of columns to compute, counted from the end; 0 means all.
            **inputs: Output of `pad`, (B, L) each.

        Returns:
            `logits` (B, K, V) and `features`: h_t, (B, K, d_s).
        """
        features = self.g(self.states(**inputs)[:, -logits_to_keep:])
        read = self.back(features)
        if self.output is None:
            table = self.backbone.get_input_embeddings().weight
            return TeacherOutput(nn.functional.linear(read, table), features)
        return TeacherOutput(self.output(read), features)

    def dimensions(self) -> dict[str, Any]:
        """See `Teacher.dimensions`."""
        return {
            "width": self.g.out_features,
            "vocabulary": None if self.output is None else self.output.out_features,
            "bias": self.output is not None and self.output.bias is not None,
        }


def open_token_teacher(model: str, tokenizer: Tokenizer, output_layer: nn.Module) -> TokenTeacher:
    """Make a token teacher that is not fine-tuned yet.

    Args:
        model: Argument of `load_causal_lm`.
        tokenizer: The student's tokenizer; the teacher's must have the same vocabulary.
        output_layer: The student's output layer, weights (V_s, d_s).

    Raises:
        ModelError: The model is missing, is no causal language model, or has another vocabulary.
    """
    whole, own = load_causal_lm(model)
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"The teacher {model} has another vocabulary than the student.",
            "Name a smaller model of the student's family with --teacher-model.",
        )
    layer = whole.get_output_embeddings()
    backbone = backbone_of(whole)
    tied = layer.weight is backbone.get_input_embeddings().weight
    ours: Tensor = output_layer.get_parameter("weight").detach().cpu()
    teacher = TokenTeacher(
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


def output_map(student: Tensor, teacher: Tensor) -> Tensor:
    """The feature map W under which two output layers agree best: argmin_W ||O_s W - O_t||.

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


def load_teacher(folder: Path) -> LabelTeacher | TokenTeacher:
    """Open a saved teacher in evaluation mode.

    Raises:
        ModelError: The folder holds no complete teacher.
    """
    fix = "Remove the folder, and train a teacher with w2s teach."
    with reading(ModelError, f"{folder} holds no teacher that can be opened", fix):
        dimensions = json.loads((folder / TEACHER).read_text(encoding="utf-8"))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        backbone: Any = AutoModel.from_config(config, trust_remote_code=False)
        teacher: LabelTeacher | TokenTeacher
        if "labels" in dimensions:
            tokenizer = load_tokenizer(folder, str(folder), backbone)
            teacher = LabelTeacher(backbone, tokenizer, **dimensions)
        else:
            teacher = TokenTeacher(backbone, **dimensions)
        teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
    require_finite(teacher, str(folder))
    return teacher.eval()
