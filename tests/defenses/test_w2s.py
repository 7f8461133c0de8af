"""W2SDefense puts its parts together: what the teacher is asked, and when it leaves memory."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import one_hot

from tiny import word_tokenizer
from w2sdefense.config import DecoyConfig, DistillConfig, TeacherConfig
from w2sdefense.data import Dataset, Example
from w2sdefense.defenses import DefenseKit, unlearning
from w2sdefense.defenses.w2s import W2SDefense
from w2sdefense.distill import targets as module
from w2sdefense.distill.losses import TeacherOutput
from w2sdefense.distill.targets import LOGITS, doubt_about
from w2sdefense.distill.teacher import LabelTeacher
from w2sdefense.errors import DataError

pytestmark = pytest.mark.slow

LABELS = ("negative", "positive")
PLAIN = {"decoys": DecoyConfig(per_label=0)}


class Teacher(LabelTeacher):
    def __init__(self) -> None:
        torch.nn.Module.__init__(self)


def ask(teacher, examples, cache) -> TeacherOutput:
    """A teacher that is always right."""
    return said(examples, [example.label for example in examples])


def said(examples, labels) -> TeacherOutput:
    return TeacherOutput(one_hot(torch.tensor(labels), 2).float(), torch.zeros(len(examples), 4))


def reviews(labels) -> tuple[Example, ...]:
    return tuple(Example(str(i), f"text {i}", label) for i, label in enumerate(labels))


def make_victim(names=LABELS):
    task = SimpleNamespace(text_answers=False)
    return SimpleNamespace(width=4, tokenizer=word_tokenizer(), label_names=names, task=task)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Apply a defense to data; gives what the student would be trained on."""

    def run(defense, examples, *, answer=ask, teacher=Teacher):
        kept = {}

        def make(job, *args, **settings):
            kept["teacher rows"] = len(job.data.train)
            made = teacher()
            kept["alive"] = weakref.ref(made)
            return made

        def train(victim, lessons, targets, **settings):
            gc.collect()
            kept.update(lessons=lessons, targets=targets, left=kept["alive"]() is None)
            return SimpleNamespace(found={}, notes=("earlier",))

        def job(config, data, *_, **settings):
            return SimpleNamespace(data=data)

        monkeypatch.setattr("w2sdefense.distill.fit_teacher.teacher_job", job)
        monkeypatch.setattr("w2sdefense.distill.fit_teacher.fit_or_load_teacher", make)
        monkeypatch.setattr(module, "teacher_targets", answer)
        monkeypatch.setattr(unlearning, "train_student", train)
        data = Dataset("d", LABELS, examples, examples, examples)
        kept["student"] = defense.apply(
            make_victim(), DefenseKit(data, tmp_path, TeacherConfig(), tmp_path)
        )
        return SimpleNamespace(**{name.replace(" ", "_"): value for name, value in kept.items()})

    return run


def test_the_teacher_leaves_memory_before_the_student_is_trained(run):
    seen = run(W2SDefense(**PLAIN), (Example("0", "good", 1),))
    assert seen.left
    (row,) = seen.targets.columns([{}], seen.lessons.train.asked)
    assert row[LOGITS].tolist() == [0.0, 1.0]


def test_the_teacher_is_asked_about_the_texts_without_the_decoys_that_the_student_reads(run):
    asked = []

    def remembered(teacher, examples, cache):
        asked.append(examples)
        return ask(teacher, examples, cache)

    decoys = DecoyConfig(per_label=2, rate=1.0, plant=False)
    seen = run(
        W2SDefense(**PLAIN | {"decoys": decoys}), (Example("0", "good", 1),), answer=remembered
    )
    for lesson, texts in zip((seen.lessons.train, seen.lessons.validation), asked, strict=False):
        assert lesson.asked == texts == (Example("0", "good", 1),)
        assert "good" in lesson.rows[0].text
        assert (lesson.rows[0].text != "good", lesson.rows[0].label) == (True, 1)


def test_the_student_may_take_fewer_rows_than_the_teacher(run):
    # As a file may be that is sorted by label.
    examples = tuple(Example(str(i), f"text {i}", i // 5) for i in range(10))
    seen = run(W2SDefense(DistillConfig(student_rows=4), **PLAIN), examples)
    assert seen.teacher_rows == 10
    assert sorted(example.label for example in seen.lessons.train.rows) == [0, 0, 1, 1]


def test_labels_in_another_order_are_refused(tmp_path):
    data = Dataset("d", LABELS, reviews([0]), reviews([0]), reviews([0]))
    victim = make_victim(LABELS[::-1])
    with pytest.raises(DataError, match="the model has positive, negative"):
        W2SDefense(**PLAIN).fit(victim, data, Teacher(), tmp_path)


def test_a_teacher_that_knows_nothing_is_told_of_and_recorded(run):
    def negative(teacher, examples, cache):
        return said(examples, [0] * len(examples))

    with pytest.warns(UserWarning, match="right on 50 of 100"):
        seen = run(W2SDefense(**PLAIN), reviews([0, 1] * 50), answer=negative)
    earlier, doubt = seen.student.notes
    assert earlier == "earlier"
    assert "one answer to all is right on 50" in doubt


@pytest.mark.parametrize(("right", "doubted"), [(70, True), (79, True), (80, False), (100, False)])
def test_a_teacher_must_be_right_clearly_more_often_than_one_answer(right, doubted):
    # Always the first answer is right on 70 of 100; two standard errors are 9.2 texts.
    examples = reviews([0] * 70 + [1] * 30)
    labels = [example.label for example in examples]
    answers = labels[:right] + [1 - label for label in labels[right:]]
    assert (doubt_about(said(examples, answers), examples) is not None) is doubted
