"""`w2s teach`: fine-tunes the small clean teacher of a student."""

from __future__ import annotations

from typing import Any

from w2sdefense.cli.display import Display
from w2sdefense.commands.preflight import stage
from w2sdefense.commands.runs import TeachRun
from w2sdefense.commands.start import open_data
from w2sdefense.data import align_labels
from w2sdefense.distill.fit_teacher import (
    LabelTeacherJob,
    TeacherJob,
    fit_or_load_teacher,
    teacher_job,
)
from w2sdefense.distill.teacher import LabelTeacher, TokenTeacher
from w2sdefense.models.checkpoint import resolve
from w2sdefense.tasks import TASKS
from w2sdefense.victim import load_victim


@stage
def run_teach(run: TeachRun, display: Display) -> LabelTeacher | TokenTeacher:
    """Fine-tune a teacher for a student, or open an existing one with the same settings."""
    teacher: LabelTeacher | TokenTeacher = fit_or_load_teacher(
        _job(run), run.output, resume=run.resume, progress=display.steps("teacher")
    )
    return teacher


def _job(run: TeachRun) -> TeacherJob[Any]:
    data = open_data(run.data, run.task)
    relu = run.alignment == "release"
    if TASKS[run.task].text_answers:
        student = load_victim(run.student, task=run.task, generation=run.generation)
        return teacher_job(run.teacher, data, student, relu=relu)
    # A label teacher needs only the student's config. Labels get its order, as in `defend`.
    checkpoint = resolve(run.student.model, run.student.base)
    if checkpoint.label_names is not None:
        data = align_labels(data, checkpoint.label_names)
    return LabelTeacherJob(run.teacher, data, checkpoint.width, relu=relu)
