import math

import pytest
import torch

from w2sdefense.config import DistillConfig
from w2sdefense.distill.losses import TeacherOutput, kd_loss, w2s_loss
from w2sdefense.tasks import Output

# Two answer tokens. The student's vocabulary has three rows, the teacher's two.
LABELS = torch.tensor([1, 0])
STUDENT = Output(
    torch.tensor([[0.0, math.log(3.0), math.log(4.0)], [math.log(2.0), 0.0, 0.0]]),
    torch.tensor([[3.0, 4.0], [0.0, 2.0]]),
    LABELS,
    torch.empty(0),
)
TEACHER = TeacherOutput(
    torch.tensor([[0.0, 0.0], [0.0, 2 * math.log(3.0)]]), torch.tensor([[4.0, 3.0], [0.0, 5.0]])
)


def parts(**settings: object) -> tuple[float, ...]:
    found = w2s_loss(STUDENT, TEACHER, DistillConfig(**settings))
    return tuple(value.item() for value in (found.total, found.ce, found.kd, found.fa))


def test_cross_entropy_is_over_the_whole_vocabulary_of_the_student():
    # 3 of 1 + 3 + 4, and 2 of 2 + 1 + 1.
    expected = (math.log(8 / 3) + math.log(2)) / 2
    assert parts(beta=0, gamma=0) == pytest.approx((expected, expected, 0, 0))


def test_distillation_is_over_the_shared_vocabulary():
    # At T = 1: the teacher says (1/2, 1/2) and (1/10, 9/10), the student (1/4, 3/4) and (2/3, 1/3)
    # of what both have.
    first = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    second = 0.1 * math.log(0.15) + 0.9 * math.log(2.7)
    expected = (first + second) / 2
    assert parts(alpha=0, gamma=0, temperature=1.0)[2] == pytest.approx(expected)
    # At T = 2 the second row of the teacher is (1/4, 3/4), the first row as before; the student's
    # are (1, sqrt 3) and (sqrt 2, 1), normalized.
    a, b = 1 / (1 + math.sqrt(3)), math.sqrt(2) / (1 + math.sqrt(2))
    first = 0.5 * math.log(0.5 / a) + 0.5 * math.log(0.5 / (1 - a))
    second = 0.25 * math.log(0.25 / b) + 0.75 * math.log(0.75 / (1 - b))
    assert parts(alpha=0, gamma=0, temperature=2.0)[2] == pytest.approx(4 * (first + second) / 2)


def test_the_larger_vocabulary_may_be_the_teachers():
    padded = torch.cat([TEACHER.logits, torch.full((2, 5), 9.0)], dim=1)
    smaller = STUDENT.logits[:, :2]
    expected = kd_loss(smaller, TEACHER.logits, 2.0)
    assert kd_loss(smaller, padded, 2.0).item() == pytest.approx(expected.item())


def test_features_are_compared_at_every_answer_token():
    # (1 + 1 + 0 + 9) / 2 as they are; at unit length (0.6, 0.8), (0.8, 0.6) and no difference.
    assert parts(alpha=0, beta=0, feature_scale="none")[3] == pytest.approx(5.5)
    assert parts(alpha=0, beta=0, feature_scale="unit")[3] == pytest.approx(0.04)


def test_padding_rows_get_gradient_from_the_cross_entropy_alone():
    logits = STUDENT.logits.clone().requires_grad_(True)
    student = Output(logits, STUDENT.features, LABELS, STUDENT.token_states)
    w2s_loss(student, TEACHER, DistillConfig(alpha=0.0)).total.backward()
    assert logits.grad[:, 2].tolist() == [0.0, 0.0]
    assert logits.grad[:, :2].abs().min() > 0
