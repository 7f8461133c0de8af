"""W2SDefense puts its parts together: what the teacher is asked, and when it leaves memory."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

from tiny import word_tokenizer
from w2sdefense.config import InsertionConfig, TeacherConfig
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
    victim = SimpleNamespace(width=4, tokenizer=None)
    targets = W2SDefense().apply(victim, kit)
    assert targets == SplitTargets(train="targets", validation="targets")


def test_the_teacher_is_asked_about_the_texts_that_the_student_reads(monkeypatch, tmp_path):
    read = []

    def train(victim, data, targets, **settings):
        read.append((data.train, data.validation))
        return targets

    monkeypatch.setattr(w2s, "fit_or_load_teacher", lambda *args, **kwargs: Teacher())
    monkeypatch.setattr(w2s, "teacher_targets", lambda teacher, examples, cache: examples)
    monkeypatch.setattr(w2s, "train_student", train)
    examples = (Example("0", "good", 1),)
    data = TextDataset("d", ("negative", "positive"), examples, examples, examples)
    kit = DefenseKit(data, tmp_path, TeacherConfig(), tmp_path)
    defense = W2SDefense(insertions=InsertionConfig(rate=1.0))
    asked = defense.apply(SimpleNamespace(width=4, tokenizer=word_tokenizer()), kit)
    assert read == [(asked.train, asked.validation)]
    assert asked.train[0].text != "good"
    assert asked.train[0].label == 1
