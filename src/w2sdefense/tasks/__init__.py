"""The tasks of a model: one file per task, and a table of their names."""

from __future__ import annotations

from w2sdefense.tasks.base import (
    Opening as Opening,
    Output as Output,
    Prediction as Prediction,
    Predictor as Predictor,
    Task as Task,
)
from w2sdefense.tasks.classification import Classification
from w2sdefense.tasks.reasoning import Reasoning
from w2sdefense.tasks.summarization import Summarization

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "summarization": Summarization,
    "reasoning": Reasoning,
}
