"""What a model is asked to do when it writes text: prompts, decoding and scores, one file each.

Classification needs nothing of this: its answer is a label. Nothing here knows a model; a tokenizer
is only used to cut a prompt into tokens (`prompt.py`).
"""

from __future__ import annotations

from w2sdefense.tasks.base import Task
from w2sdefense.tasks.reasoning import Reasoning
from w2sdefense.tasks.summarization import Summarization

TASKS: dict[str, Task] = {
    "summarization": Summarization(),
    "reasoning": Reasoning(),
}

__all__ = ["TASKS", "Reasoning", "Summarization", "Task"]
