"""What a model is asked to do: one file a task, one table of names."""

from __future__ import annotations

from w2sdefense.tasks.base import Output, Prediction, Predictor, Task
from w2sdefense.tasks.classification import Classification
from w2sdefense.tasks.reasoning import Reasoning
from w2sdefense.tasks.summarization import Summarization

TASKS: dict[str, type[Task]] = {
    "classification": Classification,
    "summarization": Summarization,
    "reasoning": Reasoning,
}

__all__ = ["TASKS", "Output", "Prediction", "Predictor", "Task"]
