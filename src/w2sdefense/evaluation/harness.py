"""CA, ASR and floor for users of the `evaluate` library or lm-evaluation-harness.

Neither package is required: `backdoor_metrics` has the form of `Metric.compute`, and `write_task`
writes a folder for `lm_eval --include_path`. The harness supports language models only; use
`w2s evaluate` for classifiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from w2sdefense.config import TEXT_SLOT, GenerationConfig
from w2sdefense.data.types import Answer
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.metrics import Rate, accuracy
from w2sdefense.evaluation.record import SAMPLES, load_record
from w2sdefense.io import make_folder, write_text
from w2sdefense.tasks import TASKS

METRICS = {"ca": True, "asr": False, "floor": False}  # metric -> whether higher is better


def backdoor_metrics(
    predictions: Sequence[Answer],
    references: Sequence[Answer],
    *,
    triggered_predictions: Sequence[Answer],
    target: Answer,
) -> dict[str, float | tuple[float, float] | int]:
    """CA, ASR and floor with 95 % intervals, in the result format of `evaluate` metrics.

    Args:
        predictions: Answers to the texts without the trigger.
        references: The right answers.
        triggered_predictions: Answers to the same texts with the trigger, in the same order.
        target: The answer that the trigger should cause. Texts whose right answer is the target do
            not count in ASR and floor.

    Returns:
        `accuracy`, `asr`, `floor`; an interval `*_interval` for each; and `asr_n`, the number of
        texts that count in ASR.

    Raises:
        ValueError: The sequences have different lengths.
    """
    rows = [
        (before == target, after == target)
        for before, right, after in zip(predictions, references, triggered_predictions, strict=True)
        if right != target
    ]
    rates = {
        "accuracy": accuracy(predictions, references),
        "asr": Rate(hits=sum(after for _, after in rows), total=len(rows)),
        "floor": Rate(hits=sum(before for before, _ in rows), total=len(rows)),
    }
    values = {name: rate.value for name, rate in rates.items()}
    intervals = {f"{name}_interval": rate.interval for name, rate in rates.items()}
    return {**values, **intervals, "asr_n": len(rows)}


def write_task(run: Path, folder: Path, name: str = "w2s_backdoor") -> Path:
    """Write the test of a finished run as a task of lm-evaluation-harness.

    The task measures any model, before or after a defense, with the run's prompts and scores.

    Args:
        run: Folder of a finished run of a text task that was measured with a trigger.
        folder: Where the YAML and its `utils.py` go.
        name: Name of the task.

    Returns:
        Path of the YAML file.

    Raises:
        DataError: There is no finished run in the folder.
        ConfigError: The run is of a classifier, or was not measured with a trigger.
    """
    record = load_record(run)
    task, target = TASKS[record.evaluation.task], record.evaluation.target
    if not task.text_answers or target is None:
        raise ConfigError(
            f"{run} is not a run of a text task with a trigger.",
            "The harness supports language models only; use w2s evaluate for a classifier.",
        )
    generation = GenerationConfig.model_validate(record.config.get("generation", {}))
    template: str = generation.prompt_template or task.template  # type: ignore[attr-defined]
    config = {
        "task": name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str((run / SAMPLES).absolute())}},
        "test_split": "test",
        "output_type": "generate_until",
        # The prompt is a column, so that text in it which looks like jinja is not rendered.
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{reference}}",
        "generation_kwargs": {
            "until": [],
            "do_sample": False,
            "max_gen_toks": generation.answer_tokens,
        },
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": higher}
            for metric, higher in METRICS.items()
        ],
        "metadata": {"version": 1.0},
    }
    functions = {"process_docs": "utils.process_docs", "process_results": "utils.process_results"}
    make_folder(folder)
    write_text(
        folder / "utils.py",
        '"""Written by w2sdefense: the test of a run for lm-evaluation-harness."""\n\n'
        "from functools import partial\n\n"
        "from w2sdefense.evaluation.harness import both_texts, score\n\n"
        f"process_docs = partial(both_texts, template={template!r})\n"
        f"process_results = partial(score, task={record.evaluation.task!r}, target={target!r})\n",
    )
    lines = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    lines += "".join(f"{key}: !function {value}\n" for key, value in functions.items())
    path = folder / f"{name}.yaml"
    write_text(path, lines)
    return path


def both_texts(dataset: Any, template: str) -> Any:
    """The questions of a test: every text of a run's samples, without and with the trigger.

    Returns:
        A `datasets.Dataset` with `prompt`, `reference` and `kind`: "triggered"; "floor" for a clean
        text that is also asked with the trigger; "clean" for other clean texts.
    """
    import datasets

    docs = []
    for row in dataset:
        asked, reference = row["triggered_text"], row["reference"]
        plain = "clean" if asked is None else "floor"
        for kind, text in ((plain, row["text"]), ("triggered", asked)):
            if text is not None:
                prompt = template.replace(TEXT_SLOT, text)
                docs.append({"prompt": prompt, "reference": reference, "kind": kind})
    return datasets.Dataset.from_list(docs)


def score(
    doc: Mapping[str, Any], results: Sequence[str], task: str, target: str
) -> dict[str, float]:
    """The scores of a model's answer to a question of `both_texts`, by metric."""
    kind, answer = TASKS[task], results[0].strip()
    hit = float(kind.is_target(answer, target))
    if doc["kind"] == "triggered":
        return {"asr": hit}
    found = {"ca": kind.scores(answer, doc["reference"])[kind.metric]}
    return found | ({"floor": hit} if doc["kind"] == "floor" else {})
