"""What a pipeline reads: exit codes, JSON that stays as it is, SARIF that validates."""

import json
import math
from typing import Any, get_args

import jsonschema
import pytest
from synthetic_runs import rates

from w2sdefense.cli.display import show_results
from w2sdefense.commands.runs import EvaluateRun
from w2sdefense.evaluation.metrics import Mean, Rate
from w2sdefense.evaluation.record import Evaluation
from w2sdefense.evaluation.states import CLEAN, State
from w2sdefense.report import load_runs
from w2sdefense.report.gate import (
    OUTCOMES,
    SCHEMA,
    Finding,
    exit_code,
    outcome_of,
    result_of,
    sarif,
    scan_result,
)

FOUND = Finding("cf <b>", "positive", 149, 150, 9.5)


ALIVE = rates(490)


@pytest.mark.parametrize(
    ("evaluation", "fail_on_alive", "fail_on_suspect", "fail_on_inconclusive"),
    [
        (ALIVE, 1, 1, 1),
        (rates(41, labels_by_position=True), 0, 1, 1),
        (rates(490, 480), 0, 1, 1),
        (rates(1, 1, n=8), 0, 0, 3),
        (Evaluation(ca=Rate(hits=870, total=1000)), 0, 0, 3),
        (rates(41), 0, 0, 0),
    ],
)
def test_exit_codes(save_run, evaluation, fail_on_alive, fail_on_suspect, fail_on_inconclusive):
    runs = load_runs([save_run("suspect", 0, evaluation=evaluation, features=False)])
    outcome = outcome_of(runs)
    assert exit_code(outcome, None) == 0
    assert exit_code(outcome, "alive") == fail_on_alive
    assert exit_code(outcome, "suspect") == fail_on_suspect
    assert exit_code(outcome, "inconclusive") == fail_on_inconclusive


def test_every_state_has_an_outcome_and_only_clean_ones_are_clean():
    assert set(OUTCOMES) == set(get_args(State))
    assert {state for state, outcome in OUTCOMES.items() if outcome == "clean"} == CLEAN


def test_what_counts_is_the_last_model(save_run):
    before = save_run("before", 0, evaluation=ALIVE, features=False)
    after = save_run("w2s", 0, evaluation=rates(42), features=False)
    assert outcome_of(load_runs([before, after])) == "clean"
    assert outcome_of(load_runs([after, before])) == "alive"


def obj(*required: str, **properties: Any) -> dict[str, Any]:
    """The schema of an object."""
    return {"type": "object", "required": list(required), "properties": properties}


NUMBERS = {name: {"type": "number"} for name in ("value", "low", "high", "n", "hits")}
QUALITY = {"anyOf": [{"type": "null"}, obj("value", "low", "high", "n", **NUMBERS)]}
QUALITY["anyOf"][1]["additionalProperties"] = False
MODEL = obj(
    *("title", "folder", "stage", "task", "metric", "trigger", "target", "ca", "asr", "floor"),
    *("triggers", "held_out", "fingerprints", "notes"),
    **dict.fromkeys(("ca", "asr", "floor"), QUALITY),
)
FIELDS = {
    "schema": {"const": SCHEMA},
    **dict.fromkeys(("version", "command", "headline", "report", "warnings", "limits"), {}),
    "outcome": {"enum": ["clean", "inconclusive", "suspect", "alive"]},
    "state": {"enum": list(get_args(State))},
    "models": {"type": "array", "minItems": 1, "items": MODEL},
}
RESULT = obj(*FIELDS, **FIELDS) | {"additionalProperties": False}


@pytest.mark.parametrize(
    "evaluation",
    [
        ALIVE,
        Evaluation(ca=Rate(hits=0, total=0)),
        Evaluation(task="summarization", ca=Mean(value=math.nan, deviation=0.0, total=0)),
        rates(45, by_trigger={"a": Rate(hits=45, total=250), "b": Rate(hits=0, total=250)}),
    ],
)
def test_json_keeps_to_its_schema(save_run, evaluation):
    assert SCHEMA == "w2sdefense.result/1", "a field that changes or goes raises the number"
    folder = save_run("suspect", 0, evaluation=evaluation, features=False)
    result = result_of("evaluate", load_runs([folder]), None)
    jsonschema.validate(json.loads(json.dumps(result, allow_nan=False)), RESULT)
    assert result["models"][0]["triggers"].keys() == evaluation.by_trigger.keys()


def test_json_alone_is_on_stdout_and_the_gate_sets_the_exit_code(save_run, capsys):
    folder = save_run("suspect", 0, evaluation=ALIVE, features=False)
    with pytest.raises(SystemExit) as left:
        show_results([folder], None, "T", EvaluateRun(json_output=True, fail_on="alive"))
    assert left.value.code == 1
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["command"], result["outcome"]) == ("evaluate", "alive")
    assert result["models"][0]["asr"]["hits"] == 490
    assert "backdoor alive" in shown.err
    show_results([folder], None, "T", EvaluateRun())
    assert "backdoor alive" in capsys.readouterr().out


def test_output_flags_are_not_settings_of_a_run():
    run = EvaluateRun(json_output=True, fail_on="alive")
    assert run.model_dump() == EvaluateRun().model_dump()


# Scans


def only(*required: str, **properties: Any) -> dict[str, Any]:
    """The schema of an object that may have no other properties."""
    return obj(*required, **properties) | {"additionalProperties": False}


TEXT, MESSAGE = {"type": "string"}, only("text", text={"type": "string"})
LEVEL = {"enum": ["none", "note", "warning", "error"]}
INDEX = {"type": "integer", "minimum": -1}
ARTIFACT = only(uri={"pattern": r"^[^\s<>\"|]+$"}, index=INDEX)
RULE = only(
    "id",
    **dict.fromkeys(("id", "name"), TEXT),
    **dict.fromkeys(("shortDescription", "fullDescription", "help"), MESSAGE),
    defaultConfiguration=only(level=LEVEL),
)
RULES = {"type": "array", "uniqueItems": True, "items": RULE}
FOUND_RESULT = only(
    "message",
    message=MESSAGE,
    ruleId=TEXT,
    ruleIndex=INDEX,
    level=LEVEL,
    locations={"items": only(physicalLocation=only(artifactLocation=ARTIFACT))},
    partialFingerprints={"additionalProperties": TEXT},
    properties={"type": "object"},
)
DRIVER = only("name", rules=RULES, **dict.fromkeys(("name", "version", "informationUri"), TEXT))
RUN = only(
    "tool",
    tool=only("driver", driver=DRIVER),
    artifacts={"type": "array", "uniqueItems": True, "items": only(location=ARTIFACT)},
    invocations={"items": only("executionSuccessful", executionSuccessful={"type": "boolean"})},
    results={"type": "array", "items": FOUND_RESULT},
)
RUNS = {"type": "array", "items": RUN}
SARIF = only("version", "runs", **{"$schema": TEXT}, version={"const": "2.1.0"}, runs=RUNS)
"""What is written of the schema of OASIS SARIF 2.1.0; like it, it allows no other names."""


@pytest.mark.parametrize("findings", [[], [FOUND, FOUND]])
def test_sarif_validates(findings):
    log = sarif('my models/"suspect"|1', findings)
    jsonschema.validate(json.loads(json.dumps(log, allow_nan=False)), SARIF)
    (run,) = log["runs"]
    assert len(run["results"]) == len(findings)
    for result in run["results"]:
        rule = run["tool"]["driver"]["rules"][result["ruleIndex"]]
        assert rule["id"] == result["ruleId"]
        assert "149 of 150" in result["message"]["text"]


def test_a_scan_that_finds_nothing_is_clean_only_if_it_could_find_something():
    result = scan_result("m", [FOUND], "Found.", "alive")
    assert result["outcome"] == "alive"
    assert result["findings"] == [
        {"text": "cf <b>", "label": "positive", "flips": 149, "texts": 150, "excess": 9.5}
    ]
