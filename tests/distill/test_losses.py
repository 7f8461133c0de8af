"""The losses, pinned to values worked out by hand or by an independent formula in numpy."""

import math

import numpy as np
import pytest
import torch

from w2sdefense.config import DistillConfig
from w2sdefense.distill import losses
from w2sdefense.distill.losses import TeacherOutput, fa_loss, kd_loss, release_fa_loss, w2s_loss
from w2sdefense.tasks import Output

STUDENT_LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
TEACHER_LOGITS = torch.tensor([[0.0, 0.0], [0.0, 3.0]])
LABELS = torch.tensor([0, 0])


def outputs(**changes) -> tuple[Output, TeacherOutput]:
    student = {
        "logits": STUDENT_LOGITS,
        "features": torch.tensor([[3.0, 4.0], [0.0, 2.0]]),
        "labels": LABELS,
        "token_states": torch.tensor([[[9.0, 9.0], [3.0, 4.0]], [[1.0, 1.0], [0.0, 2.0]]]),
    }
    teacher = {"logits": TEACHER_LOGITS, "features": torch.tensor([[3.0, 0.0], [1.0, -2.0]])}
    for name, value in changes.items():
        side, field = name.split("_", 1)
        {"student": student, "teacher": teacher}[side][field] = value
    return Output(**student), TeacherOutput(**teacher)


def loss(alpha=0.0, beta=0.0, gamma=0.0, *, changes=None, **settings):
    config = DistillConfig(alpha=alpha, beta=beta, gamma=gamma, **settings)
    return w2s_loss(*outputs(**(changes or {})), config)


def test_kd_at_temperature_one_by_hand():
    # KL(teacher || student), mean over two rows.
    p, q = 1 / (1 + math.exp(2)), 1 / (1 + math.exp(-1))  # student: P(1) of row 0, of row 1
    t = 1 / (1 + math.exp(-3))  # teacher: P(1) of row 1; one half in row 0
    row0 = 0.5 * math.log(0.5 / p) + 0.5 * math.log(0.5 / (1 - p))
    row1 = t * math.log(t / q) + (1 - t) * math.log((1 - t) / (1 - q))
    assert row0 == pytest.approx(0.4337808)  # log(cosh(1))
    assert kd_loss(STUDENT_LOGITS, TEACHER_LOGITS, 1.0).item() == pytest.approx((row0 + row1) / 2)
    assert kd_loss(STUDENT_LOGITS, TEACHER_LOGITS, 1.0).item() == pytest.approx(0.3018017, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_kd_by_an_independent_formula(temperature):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 7, 4))

    def softmax(z):
        e = np.exp(z / temperature)
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(teacher), softmax(student)
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum(-1).mean()
    got = kd_loss(torch.tensor(student), torch.tensor(teacher), temperature)
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_fa_by_hand():
    # Row 0: (0, 4) -> 16. Row 1: (-1, 4) -> 17. Mean over the batch, sum over the width.
    student, teacher = outputs()
    assert fa_loss(student.features, teacher.features).item() == pytest.approx(16.5)
    assert loss(gamma=2.0, feature_scale="none").fa.item() == pytest.approx(16.5)
    assert loss(gamma=2.0, feature_scale="none").total.item() == pytest.approx(33.0)


def test_release_by_hand():
    # ReLU of the last sample's (1, -2) is (1, 0). Against every position, padding included:
    # (8, 9) -> 145, (2, 4) -> 20, (0, 1) -> 1, (-1, 2) -> 5; the mean is 42.75.
    student, teacher = outputs()
    assert release_fa_loss(student.token_states, teacher.features).item() == pytest.approx(42.75)
    assert loss(gamma=1.0, alignment="release").fa.item() == pytest.approx(42.75)


def test_release_reads_the_last_sample_only():
    changes = {"teacher_features": torch.tensor([[100.0, 100.0], [1.0, -2.0]])}
    parts = loss(gamma=1.0, alignment="release", changes=changes)
    assert parts.fa.item() == pytest.approx(42.75)


@pytest.mark.parametrize(
    ("student", "expected"),
    [
        ([[2.0, 0.0], [0.0, 7.0]], 0.0),  # the same directions, other lengths
        ([[-2.0, 0.0], [0.0, -7.0]], 4.0),  # opposite
        ([[0.0, 5.0], [3.0, 0.0]], 2.0),  # at right angles
        ([[2.0, 0.0], [0.0, -7.0]], 2.0),  # the mean of 0 and 4
    ],
)
def test_unit_scale_compares_directions(student, expected):
    changes = {
        "student_features": torch.tensor(student),
        "teacher_features": torch.tensor([[0.5, 0.0], [0.0, 30.0]]),
    }
    parts = loss(gamma=1.0, feature_scale="unit", changes=changes)
    assert parts.fa.item() == pytest.approx(expected, abs=1e-6)


def test_ce_by_hand():
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert loss(alpha=1.0).ce.item() == pytest.approx(expected)


def test_the_total_is_the_weighted_sum():
    parts = loss(alpha=5.0, beta=0.2, gamma=0.001)
    assert min(parts.ce.item(), parts.kd.item(), parts.fa.item()) > 0
    expected = 5 * parts.ce.item() + 0.2 * parts.kd.item() + 0.001 * parts.fa.item()
    assert parts.total.item() == pytest.approx(expected)


@pytest.mark.parametrize("weight", ["alpha", "beta", "gamma"])
def test_a_loss_of_weight_zero_is_not_computed(weight):
    # What it would read is NaN, so anything computed from it would show.
    nan = torch.full((2, 2), torch.nan)
    changes = {
        "alpha": {},
        "beta": {"teacher_logits": nan},
        "gamma": {"teacher_features": nan, "student_features": nan},
    }[weight]
    weights = {"alpha": 1.0, "beta": 1.0, "gamma": 1.0} | {weight: 0.0}
    parts = loss(**weights, changes=changes)
    assert torch.isfinite(parts.total)
    part = {"alpha": parts.ce, "beta": parts.kd, "gamma": parts.fa}[weight]
    assert part.item() == 0.0
    changes = changes or {"student_logits": nan}
    assert torch.isnan(loss(**{weight: 1.0}, changes=changes).total), "it shows otherwise"


@pytest.mark.parametrize("alignment", ["paper", "release"])
@pytest.mark.parametrize("feature_scale", ["none", "unit"])
def test_gradients_flow_to_the_student(alignment, feature_scale):
    student, teacher = outputs()
    reads = student.token_states if alignment == "release" else student.features
    for tensor in (student.logits, reads):
        tensor.grad = None
        tensor.requires_grad_()
    config = DistillConfig(alignment=alignment, feature_scale=feature_scale)
    w2s_loss(student, teacher, config).total.backward()
    assert student.logits.grad.abs().sum() > 0
    assert reads.grad.abs().sum() > 0
    assert teacher.logits.grad is None
    assert teacher.features.grad is None


def test_release_pulls_on_every_position():
    student, teacher = outputs(student_token_states=torch.ones(2, 3, 2))
    student.token_states.requires_grad_()
    config = DistillConfig(alpha=0, beta=0, gamma=1, alignment="release")
    losses.w2s_loss(student, teacher, config).total.backward()
    # d/dh mean ||h - (1, 0)||^2 = 2 (h - (1, 0)) / 6 = (0, 1/3) everywhere.
    torch.testing.assert_close(
        student.token_states.grad, torch.tensor([0.0, 1 / 3]).expand(2, 3, 2)
    )
