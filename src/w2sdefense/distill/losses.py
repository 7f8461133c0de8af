"""The losses of W2SDefense as pure functions of tensors.

    l = alpha * CE + beta * KD + gamma * FA                                  (paper, Section 4)

CE is the cross entropy with the labels, KD the distillation of the teacher's logits (Hinton et al.
2015), FA the alignment of the student's feature with the teacher's (Eqs. 11-12). All are means over
N rows: one row per text for label answers, one row per answer token for text answers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from w2sdefense.config import DistillConfig
from w2sdefense.tasks.base import Output


@dataclass(frozen=True)
class LossParts:
    """The weighted sum and its three losses before weighting, each a scalar tensor."""

    total: Tensor
    ce: Tensor
    kd: Tensor
    fa: Tensor


@dataclass(frozen=True)
class TeacherOutput:
    """The teacher's output for the N rows of the student.

    Attributes:
        logits: (N, C).
        features: The teacher's features at the student's width, h_t = W z_t + b, (N, d_s).
    """

    logits: Tensor
    features: Tensor


def w2s_loss(student: Output, teacher: TeacherOutput, config: DistillConfig) -> LossParts:
    """The W2SDefense loss of one batch.

    A loss with weight 0 is not computed; it is reported as 0.

    Args:
        student: Output of the student, attached to the graph, with the labels of its rows.
        teacher: Output of the frozen teacher.
        config: Weights, temperature, alignment and feature scale.

    Returns:
        The weighted sum and its parts.
    """
    zero = student.logits.new_zeros(())
    ce = F.cross_entropy(student.logits, student.labels) if config.alpha else zero
    kd = kd_loss(student.logits, teacher.logits, config.temperature) if config.beta else zero
    fa = _alignment(student, teacher, config) if config.gamma else zero
    return LossParts(config.alpha * ce + config.beta * kd + config.gamma * fa, ce, kd, fa)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Logit distillation: T^2 * KL(softmax(z_t / T) || softmax(z_s / T)), mean over the rows.

    Models of one family pad the same vocabulary to different sizes (Qwen2.5: 151,936 and 152,064).
    Indices beyond the smaller size represent no token; both distributions ignore them.

    Args:
        student_logits: z_s, (N, C_s).
        teacher_logits: z_t, (N, C_t), the same labels or tokens at the same indices.
        temperature: T; the factor T^2 makes the gradient scale independent of T.

    Returns:
        Scalar.
    """
    shared = min(student_logits.shape[-1], teacher_logits.shape[-1])
    return temperature**2 * F.kl_div(
        F.log_softmax(student_logits[:, :shared] / temperature, dim=-1),
        F.log_softmax(teacher_logits[:, :shared] / temperature, dim=-1),
        reduction="batchmean",
        log_target=True,
    )


def fa_loss(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Feature alignment: mean over the batch of ||h_s - h_t||_2^2 (paper, Eqs. 11-12).

    Args:
        student_feature: h_s, (B, d_s).
        teacher_feature: h_t, (B, d_s).

    Returns:
        Scalar.
    """
    return (student_feature - teacher_feature).pow(2).sum(-1).mean()


def release_fa_loss(token_states: Tensor, teacher_feature: Tensor) -> Tensor:
    """Feature alignment as in the authors' published script.

    The script indexes the teacher's (B, d) features with [-1], which selects the last *sample* of
    the batch, and compares this one vector with *every* token position of every text, including
    padding. Its teacher has a ReLU after `g`.

    Args:
        token_states: The student's final hidden states, (B, L, d_s), padding included.
        teacher_feature: h_t of the batch, (B, d_s); the ReLU is applied here.

    Returns:
        Scalar: mean over B x L of the squared distance.
    """
    return fa_loss(token_states.float().flatten(0, 1), teacher_feature[-1].relu())


def _alignment(student: Output, teacher: TeacherOutput, config: DistillConfig) -> Tensor:
    if config.alignment == "release":
        return release_fa_loss(student.token_states, teacher.features)
    if config.feature_scale == "none":
        return fa_loss(student.features, teacher.features)
    return fa_loss(F.normalize(student.features, dim=-1), F.normalize(teacher.features, dim=-1))
