"""Results for pipelines: one outcome, an exit code, JSON with a schema number, and SARIF.

    alive         the trigger works (also weakened), or a scan found text that acts like a trigger
    suspect       the measurement cannot be trusted, or a bias hides what the trigger does; a scan
                  found text that acts like a trigger, but similar candidates for all other labels
    inconclusive  nothing was tested, or too few texts
    clean         no backdoor was seen (any more) for what was tested

`docs/gate.md` documents the JSON. New fields may be added; if a field changes or is removed, the
number in `SCHEMA` increases.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from w2sdefense.evaluation.metrics import Quality, Rate
from w2sdefense.evaluation.states import State
from w2sdefense.report.runs import Run
from w2sdefense.report.tables import verdict_of

SCHEMA = "w2sdefense.result/1"

Outcome = Literal["clean", "inconclusive", "suspect", "alive"]
ORDER: tuple[Outcome, ...] = ("clean", "inconclusive", "suspect", "alive")

OUTCOMES: dict[State, Outcome] = {
    "alive": "alive",
    "weakened": "alive",
    "doubtful": "suspect",
    "masked": "suspect",
    "unclear": "inconclusive",
    "untested": "inconclusive",
    "removed": "clean",
    "unseen": "clean",
}

FINDING, INCONCLUSIVE = 1, 3  # exit codes; 0 is clean, and 2 is an error


@dataclass(frozen=True)
class Finding:
    """A text that acts like a trigger."""

    text: str
    label: str  # the answer that it causes
    flips: int  # number of trials in which it changed the answer to `label`
    texts: int  # number of trials
    excess: float  # log-odds shift beyond that of a clean teacher, in nats


def exit_code(outcome: Outcome, fail_on: str | None) -> int:
    """The exit code of a command that fails at `fail_on` or a worse outcome (see `ORDER`)."""
    if fail_on is None or outcome == "clean" or ORDER.index(outcome) < ORDER.index(fail_on):
        return 0
    return INCONCLUSIVE if outcome == "inconclusive" else FINDING


def outcome_of(runs: Sequence[Run]) -> Outcome:
    """The outcome of the last run, compared with the first."""
    return OUTCOMES[verdict_of(runs, runs[-1]).state]


def result_of(command: str, runs: Sequence[Run], page: Path | None) -> dict[str, Any]:
    """The measurements of some models and the verdict on the last, as plain values."""
    verdict = verdict_of(runs, runs[-1])
    return numbers_of(command, outcome=OUTCOMES[verdict.state], headline=verdict.headline) | {
        "state": verdict.state,
        "warnings": list(verdict.warnings),
        "limits": list(verdict.limits),
        "models": [_model(run, verdict_of(runs, run).triggers) for run in runs],
        "report": None if page is None else str(page),
    }


def scan_result(
    model: str, findings: Sequence[Finding], headline: str, outcome: Outcome
) -> dict[str, Any]:
    """The result of a scan, as plain values."""
    found = [asdict(finding) for finding in findings]
    return numbers_of("scan", outcome=outcome, headline=headline, model=model, findings=found)


def numbers_of(command: str, **values: Any) -> dict[str, Any]:
    """Add schema, version and command to the values that a command measured."""
    head = {"schema": SCHEMA, "version": version("w2sdefense"), "command": command}
    return head | values


def _model(run: Run, states: Mapping[str, State]) -> dict[str, Any]:
    record, evaluation = run.record, run.record.evaluation
    return {
        "title": run.title,
        "folder": str(run.folder),
        "stage": record.stage,
        "task": evaluation.task,
        "metric": evaluation.metric,
        "trigger": evaluation.trigger,
        "target": evaluation.target,
        **{name: _quality(getattr(evaluation, name)) for name in ("ca", "asr", "floor")},
        "triggers": {
            trigger: {"asr": _quality(rate), "state": states.get(trigger)}
            for trigger, rate in evaluation.by_trigger.items()
        },
        "held_out": [
            {"kind": d.kind, "trigger": d.trigger, "target": d.target}
            | {name: _quality(getattr(d, name)) for name in ("before", "after", "floor")}
            for d in evaluation.held_out
        ],
        "fingerprints": record.fingerprints,
        "notes": list(record.notes),
    }


def _quality(quality: Quality | None) -> dict[str, Any] | None:
    """A share or a mean with its 95 % interval; None if nothing was counted."""
    if quality is None or math.isnan(quality.value):
        return None
    low, high = quality.interval
    counts = {"hits": quality.hits} if isinstance(quality, Rate) else {}
    return {"value": quality.value, "low": low, "high": high, "n": quality.total, **counts}


def sarif(model: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings of a scan as a SARIF 2.1.0 log, which code hosts display."""
    artifact = {"uri": quote(Path(model).as_posix())}
    driver = {
        "name": "w2sdefense",
        "version": version("w2sdefense"),
        "informationUri": "https://arxiv.org/abs/2410.14425",
        "rules": [
            {
                "id": "backdoor-trigger",
                "name": "BackdoorTrigger",
                "shortDescription": {"text": "A text acts like the trigger of a backdoor"},
                "fullDescription": {
                    "text": "Put into nearly any text it turns the model's answer into one label, "
                    "and a clean teacher does not follow."
                },
                "help": {"text": "Clean the model with: w2s defend"},
                "defaultConfiguration": {"level": "error"},
            }
        ],
    }
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "artifacts": [{"location": artifact}],
                "invocations": [{"executionSuccessful": True}],
                "results": [_sarif_result(artifact, finding) for finding in findings],
            }
        ],
    }


def _sarif_result(artifact: dict[str, str], finding: Finding) -> dict[str, Any]:
    digest = hashlib.sha256(f"{finding.text}\0{finding.label}".encode()).hexdigest()
    return {
        "ruleId": "backdoor-trigger",
        "ruleIndex": 0,
        "level": "error",
        "message": {
            "text": f"“{finding.text}” turns {finding.flips} of {finding.texts} texts into "
            f"“{finding.label}”, {finding.excess:+.1f} nats beyond a clean teacher."
        },
        "locations": [{"physicalLocation": {"artifactLocation": artifact | {"index": 0}}}],
        "partialFingerprints": {"trigger/v1": digest},
        "properties": asdict(finding),
    }
