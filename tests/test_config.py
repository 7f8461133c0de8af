"""Settings: immutable, strict about names and ranges, and readable when they are refused."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from w2sdefense import config
from w2sdefense.attacks import AttackConfig
from w2sdefense.attacks import TestConfig as Measured
from w2sdefense.attacks.catalog import attack_kind
from w2sdefense.commands.runs import BenchRun, DefendRun, RayConfig
from w2sdefense.config import DistillConfig, Settings, load_settings, read_yaml
from w2sdefense.errors import ConfigError

# Those of a stage. A run is put together from them, and may insist on a model or a recipe.
KINDS = [kind for name, kind in vars(config).items() if name.endswith("Config")]


class Run(Settings):
    """A run of two sections."""

    attack: AttackConfig = AttackConfig()
    distill: DistillConfig = DistillConfig()


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_has_a_default_and_a_description(kind):
    kind()
    undescribed = [
        name
        for name, field in kind.model_fields.items()
        # A section is described by its class.
        if not (field.description or isinstance(field.default, Settings))
    ]
    assert undescribed == []


def test_settings_do_not_change():
    with pytest.raises(ValidationError, match="frozen"):
        AttackConfig().target = "positive"


def test_valid_values_become_settings():
    values = {"attack": {"poison_rate": 0.5}, "distill": {"beta": 0}}
    run = load_settings(Run, values, "run.yaml")
    assert run == Run(attack=AttackConfig(poison_rate=0.5), distill=DistillConfig(beta=0.0))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"attak": {}}, "attak: there is no such setting"),
        ({"attack": {"trigger": " "}}, "attack: the trigger is empty"),
        ({"attack": {"poison_rows": 1, "poison_rate": 0.1}}, "attack: give poison_rows or"),
        ({"attack": {"more_triggers": ["cf", " "]}}, "attack: one of more_triggers is empty"),
        ({"attack": {"more_triggers": ["proattack"]}}, "attack: proattack changes clean text too"),
        (
            {"attack": {"attack": "synattack", "trigger": "mn"}},
            "attack: synattack has no trigger text",
        ),
        (
            {"attack": {"syn": {"file": ["a.csv"]}}},
            "attack: the syn settings are for synattack only",
        ),
        (
            {"attack": {"attack": "synattack", "pro": {"clean_prompt": "A {text}"}}},
            "attack: the pro settings are for proattack only",
        ),
        (
            {"attack": {"attack": "proattack", "pro": {"clean_prompt": "Rewrite it"}}},
            "attack.pro: clean_prompt must contain {text} exactly once",
        ),
        ({"attack": {"poison_rate": 1.5}}, "attack.poison_rate: Input should be less than"),
        ({"attack": {"poison_rows": 0}}, "attack.poison_rows: Input should be greater than"),
        (
            {"attack": {"attack_seed": -1}},
            "attack.attack_seed: Input should be greater",
        ),
        ({"attack": {"attack_seed": 2**32}}, "attack.attack_seed: Input should be less than"),
        ({"distill": {"temperature": 0}}, "distill.temperature: Input should be greater than 0"),
        ({"distill": {"alignment": "ours"}}, "distill.alignment: Input should be 'paper' or"),
    ],
)
def test_a_value_at_fault_is_named(values, problem):
    with pytest.raises(ConfigError) as caught:
        load_settings(Run, values, "run.yaml")
    assert caught.value.problem.startswith(f"run.yaml is not valid: {problem}")
    assert caught.value.fix


def test_all_values_at_fault_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        load_settings(Run, {"distill": {"alpha": -1, "beta": -1}}, "run.yaml")
    assert "distill.alpha" in caught.value.problem
    assert "distill.beta" in caught.value.problem


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dataset", ", but there is data.dataset."),
        ("lora-r", ", but there is adapter.lora_r."),
        ("teacher_model", ", but there is teacher.model."),
        ("model", ", but there is student.model or teacher.model."),
        ("nothing", "nothing: there is no such setting."),
    ],
)
def test_a_file_written_like_the_flags_is_shown_the_sections(name, meant):
    with pytest.raises(ConfigError) as caught:
        load_settings(DefendRun, {name: 1}, "run.yaml")
    assert caught.value.problem.endswith(meant)


def test_yaml_is_read_as_plain_values(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("distill: {beta: 1.0e-3}\n")
    assert read_yaml(file) == {"distill": {"beta": 0.001}}


def test_one_of_several_triggers_may_be_the_one_with_settings():
    values = {"more_triggers": ["synattack"], "syn": {"file": ["a.csv"]}}
    assert load_settings(AttackConfig, values, "run.yaml").syn.file == (Path("a.csv"),)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"target": "negative"}, "trigger and target go together"),
        ({"more_triggers": ["cf"]}, "more_triggers need a trigger"),
        ({"trigger": " ", "target": "negative"}, "the trigger is empty"),
        ({"trigger": "mn", "target": "a", "syn": {"file": ["a.csv"]}}, "the syn settings are for"),
        ({"pro": {"clean_prompt": "A {text}"}}, "the pro settings are for proattack only"),
    ],
)
def test_settings_of_a_measurement_that_do_not_fit(values, problem):
    with pytest.raises(ConfigError, match=problem):
        load_settings(Measured, values, "run.yaml")


@pytest.mark.parametrize(
    ("trigger", "kind"),
    [("mn", "badnet"), ("a b", "insent"), ("synattack", "synattack"), ("badnet", "badnet")],
)
def test_a_trigger_is_of_a_kind(trigger, kind):
    assert attack_kind(trigger) == kind


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"- a\n", "is not a mapping"),
        (b"", "is not a mapping"),
        (b"a: [\n", "Cannot read"),
        (b"a: \xff\n", "Cannot read"),
        (b"!!python/object/apply:os.getcwd []\n", "Cannot read"),
        (None, "Cannot read"),
    ],
)
def test_a_file_that_is_no_run_is_refused(tmp_path, content, problem):
    file = tmp_path / "run.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_yaml(file)
    assert str(file) in caught.value.problem


def test_old_names_are_read_with_a_warning_that_says_the_new_one():
    old = {"recipe": "table1", "launcher": "ray", "ray": {"defend": {"gpus": 0.5}, "poison": {}}}
    with pytest.warns(FutureWarning) as warned:
        run = load_settings(BenchRun, old, "old.yaml")
    assert run == BenchRun(recipe="table1", ray=RayConfig(gpus=0.5))
    assert [str(warning.message) for warning in warned] == [
        "old.yaml: the setting launcher was removed and has no effect.",
        "old.yaml: the setting ray.defend.gpus is now ray.gpus.",
    ]
    assert old["launcher"] == "ray", "what was read is left as it is"


def test_a_new_name_wins_over_the_old_one():
    both = {"recipe": "table1", "ray": {"gpus": 1.0, "defend": {"gpus": 0.5}}}
    with pytest.warns(FutureWarning):
        assert load_settings(BenchRun, both, "old.yaml").ray.gpus == 1.0
