"""W2SDefense puts its parts together: what the teacher is asked, and when it leaves memory."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from tiny import word_tokenizer
from w2sdefense.config import DistillConfig, InsertionConfig, ScanTrainingConfig, TeacherConfig
from w2sdefense.data import Example, TextDataset
from w2sdefense.defenses import DefenseKit
from w2sdefense.defenses.w2s import W2SDefense
from w2sdefense.distill.targets import TeacherTargets, doubt_about
from w2sdefense.errors import DataError

pytestmark = pytest.mark.slow

LABELS = ("negative", "positive")


class Teacher:
    pass


def ask(teacher, examples, cache) -> TeacherTargets:
    """A teacher that is always right."""
    return said(examples, [example.label for example in examples])


def said(examples, labels) -> TeacherTargets:
    return TeacherTargets(one_hot(torch.tensor(labels), 2).float(), torch.zeros(len(examples), 4))


def test_the_teacher_leaves_memory_before_the_student_is_trained(monkeypatch, tmp_path):
    alive = []

    def make(*args, **kwargs):
        teacher = Teacher()
        alive.append(weakref.ref(teacher))
        return teacher

    def train(victim, data, targets, **settings):
        gc.collect()
        assert alive[0]() is None
        return SimpleNamespace(found={}, targets=targets)

    monkeypatch.setattr("w2sdefense.distill.teacher.fit_or_load_teacher", make)
    monkeypatch.setattr("w2sdefense.distill.targets.teacher_targets", ask)
    monkeypatch.setattr("w2sdefense.distill.student.train_student", train)
    examples = (Example("0", "good", 1),)
    data = TextDataset("d", LABELS, examples, examples, examples)
    kit = DefenseKit(data, tmp_path, TeacherConfig(), tmp_path)
    victim = SimpleNamespace(width=4, tokenizer=None, label_names=LABELS)
    student = W2SDefense(scan=ScanTrainingConfig(rate=0.0)).apply(victim, kit)
    assert student.targets.train.logits.tolist() == [[0.0, 1.0]]


def test_the_teacher_is_asked_about_the_texts_that_the_student_reads(monkeypatch, tmp_path):
    asked, read = [], []

    def remembered(teacher, examples, cache):
        asked.append(examples)
        return ask(teacher, examples, cache)

    def train(victim, data, targets, **settings):
        read.extend([data.train, data.validation])
        return SimpleNamespace(found={})

    monkeypatch.setattr(
        "w2sdefense.distill.teacher.fit_or_load_teacher", lambda *args, **kwargs: Teacher()
    )
    monkeypatch.setattr("w2sdefense.distill.targets.teacher_targets", remembered)
    monkeypatch.setattr("w2sdefense.distill.student.train_student", train)
    examples = (Example("0", "good", 1),)
    data = TextDataset("d", LABELS, examples, examples, examples)
    kit = DefenseKit(data, tmp_path, TeacherConfig(), tmp_path)
    defense = W2SDefense(scan=ScanTrainingConfig(rate=0.0), insertions=InsertionConfig(rate=1.0))
    victim = SimpleNamespace(width=4, tokenizer=word_tokenizer(), label_names=LABELS)
    defense.apply(victim, kit)
    assert read == asked
    assert read[0][0].text != "good"
    assert read[0][0].label == 1


def test_the_student_may_take_fewer_rows_than_the_teacher(monkeypatch, tmp_path):
    read = {}

    def fit(config, data, *args, **kwargs):
        read["teacher"] = len(data.train)
        return Teacher()

    def train(victim, data, targets, **settings):
        read["student"] = [example.label for example in data.train]
        return SimpleNamespace(found={})

    monkeypatch.setattr("w2sdefense.distill.teacher.fit_or_load_teacher", fit)
    monkeypatch.setattr("w2sdefense.distill.targets.teacher_targets", ask)
    monkeypatch.setattr("w2sdefense.distill.student.train_student", train)
    # As a file may be that is sorted by label.
    examples = tuple(Example(str(i), f"text {i}", i // 5) for i in range(10))
    data = TextDataset("d", LABELS, examples, examples, examples)
    kit = DefenseKit(data, tmp_path, TeacherConfig(), tmp_path)
    defense = W2SDefense(DistillConfig(student_rows=4), ScanTrainingConfig(rate=0.0))
    defense.apply(SimpleNamespace(width=4, tokenizer=None, label_names=LABELS), kit)
    assert read["teacher"] == 10
    assert sorted(read["student"]) == [0, 0, 1, 1]


def test_labels_in_another_order_are_refused(tmp_path):
    data = TextDataset("d", LABELS, reviews([0]), reviews([0]), reviews([0]))
    victim = SimpleNamespace(width=4, tokenizer=None, label_names=LABELS[::-1])
    with pytest.raises(DataError, match=r"labels negative, positive.*the model positive, negative"):
        W2SDefense(scan=ScanTrainingConfig(rate=0.0)).fit(victim, data, Teacher(), tmp_path)


def reviews(labels) -> tuple[Example, ...]:
    return tuple(Example(str(i), f"text {i}", label) for i, label in enumerate(labels))


def test_a_teacher_that_knows_nothing_is_told_of_and_recorded(monkeypatch, tmp_path):
    def negative(teacher, examples, cache):
        return said(examples, [0] * len(examples))

    monkeypatch.setattr("w2sdefense.distill.targets.teacher_targets", negative)
    monkeypatch.setattr(
        "w2sdefense.distill.student.train_student",
        lambda *_, **settings: SimpleNamespace(found={}, notes=("earlier",)),
    )
    examples = reviews([0, 1] * 50)
    data = TextDataset("d", LABELS, examples, examples, examples)
    victim = SimpleNamespace(width=4, tokenizer=None, label_names=LABELS)
    defense = W2SDefense(scan=ScanTrainingConfig(rate=0.0))
    with pytest.warns(UserWarning, match="right on 50 of 100"):
        student = defense.fit(victim, data, Teacher(), tmp_path)
    earlier, doubt = student.notes
    assert earlier == "earlier"
    assert "one answer to all is right on 50" in doubt


@pytest.mark.parametrize(("right", "doubted"), [(70, True), (79, True), (80, False), (100, False)])
def test_a_teacher_must_be_right_clearly_more_often_than_one_answer(right, doubted):
    # Always the first answer is right on 70 of 100; two standard errors are 9.2 texts.
    examples = reviews([0] * 70 + [1] * 30)
    labels = [example.label for example in examples]
    answers = labels[:right] + [1 - label for label in labels[right:]]
    assert (doubt_about(said(examples, answers), examples) is not None) is doubted
