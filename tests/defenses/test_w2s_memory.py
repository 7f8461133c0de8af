"""The teacher is gone when the student's epochs begin."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

from w2sdefense.config import TeacherConfig
from w2sdefense.data import Example, TextDataset
from w2sdefense.defenses import DefenseKit, W2SDefense, w2s
from w2sdefense.distill.targets import SplitTargets


class Teacher:
    pass


def test_the_teacher_leaves_memory_before_the_student_is_trained(monkeypatch, tmp_path):
    alive = []

    def make(*args, **kwargs):
        teacher = Teacher()
        alive.append(weakref.ref(teacher))
        return teacher

    def train(victim, data, targets, **settings):
        gc.collect()
        assert alive[0]() is None
        return targets

    monkeypatch.setattr(w2s, "fit_or_load_teacher", make)
    monkeypatch.setattr(w2s, "teacher_targets", lambda teacher, examples, cache: "targets")
    monkeypatch.setattr(w2s, "train_student", train)
    examples = (Example("0", "good", 1),)
    data = TextDataset("d", ("negative", "positive"), examples, examples, examples)
    kit = DefenseKit(data, tmp_path, TeacherConfig(), tmp_path)
    targets = W2SDefense().apply(SimpleNamespace(width=4), kit)
    assert targets == SplitTargets(train="targets", validation="targets")
