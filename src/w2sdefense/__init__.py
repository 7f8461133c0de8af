"""Remove backdoors from language models, and show that they are gone.

The public names are `__dir__`'s; each is imported at its first use. `__init__.pyi` shows them to
type checkers and editors.
"""

import logging
from importlib import import_module
from typing import Any

# When peft is imported on a CPU with bfloat16, bitsandbytes warns that compiled code from the hub
# is missing, which we do not want to use. Worker processes import this module, too.
logging.getLogger("bitsandbytes.backends.cpu").setLevel(logging.ERROR)

_EXPORTS = {
    "W2SDefense": "defenses.w2s",
    "W2STrainer": "distill.own",
    "align_labels": "data",
    "attack_from_trigger": "attacks",
    "backdoor_metrics": "evaluation.harness",
    "evaluate": "evaluation.evaluate",
    "fit_teacher": "distill.fit_teacher",
    "LabelTeacherJob": "distill.fit_teacher",
    "load_dataset": "data",
    "load_victim": "victim",
    "make_test_set": "evaluation.evaluate",
    "write_task": "evaluation.harness",
}
"""Public name -> module that it is imported from at its first use, so that torch is not imported
before."""


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
