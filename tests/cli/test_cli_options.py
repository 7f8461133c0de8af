"""Flags made from settings: names, nesting, what overrides what, and errors with their fix."""

import logging
import runpy
from pathlib import Path
from typing import Literal

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

from w2sdefense.cli.app import app as real
from w2sdefense.cli.display import run_or_explain
from w2sdefense.cli.options import add_command
from w2sdefense.commands.runs import BenchRun, DefendRun, PoisonRun, RayConfig
from w2sdefense.config import DataConfig, Settings, setting
from w2sdefense.defenses import DEFENSES
from w2sdefense.defenses.catalog import own_sections
from w2sdefense.errors import DataError


class Loss(Settings):
    """Weights of the loss: one per term."""

    alpha: float = Field(1.0, ge=0.0, description="Weight of the labels.")
    kind: Literal["sum", "mean"] = Field("mean", description="Reduction.")
    clip: bool = Field(True, description="Clip the gradient.")
    warm_up: int | None = Field(None, description="Steps of warm-up.")


class Helper(Settings):
    """The helper."""

    model: str = Field("tiny", description="Model of the helper.")
    loss: Loss = Loss(alpha=0.5)


class Toy(Settings):
    """A run of the tests."""

    model: str = Field(description="Model.")
    out: Path = Field(Path("runs"), description="Folder.")
    tags: tuple[str, ...] = Field((), description="Tags.")
    loss: Loss = Loss(alpha=3.0)
    helper: Helper = Field(Helper(), json_schema_extra={"prefix": "helper"})
    extra: DataConfig | None = None


def invoke(kind, *arguments):
    """Run a command made from a settings class; returns typer's result and the settings it got."""
    seen = []

    def toy(settings):
        """Play.

        Args:
            settings: Not for the help.
        """
        seen.append(settings)

    app = typer.Typer()
    add_command(app, kind, toy)
    # A wide terminal, so that errors are not wrapped.
    result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200", "NO_COLOR": "1"})
    return result, seen[0] if seen else None


def settings_of(kind, *arguments):
    result, settings = invoke(kind, *arguments)
    assert result.exit_code == 0, result.output
    return settings


def test_without_flags_a_command_runs_on_the_defaults():
    assert settings_of(PoisonRun) == PoisonRun()


def test_flags_reach_the_nested_values():
    flags = (
        "--model m --out here --alpha 0 --kind sum --no-clip --warm-up 7 "
        "--helper-model h --helper-alpha 2 --tags a --tags b"
    )
    settings = settings_of(Toy, *flags.split())
    assert settings == Toy(
        model="m",
        out=Path("here"),
        tags=("a", "b"),
        loss=Loss(alpha=0, kind="sum", clip=False, warm_up=7),
        helper=Helper(model="h", loss=Loss(alpha=2)),
    )


def test_one_flag_leaves_the_other_defaults_of_its_section_alone():
    settings = settings_of(Toy, "--model", "m", "--kind", "sum", "--helper-model", "h")
    assert settings.loss == Loss(alpha=3.0, kind="sum")
    assert settings.helper.loss.alpha == 0.5


def test_a_section_that_may_be_missing_appears_with_its_first_flag():
    assert settings_of(Toy, "--model", "m").extra is None
    assert settings_of(Toy, "--model", "m", "--data-seed", "3").extra == DataConfig(data_seed=3)


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: from-file\nextra: null\nloss: {alpha: 2.0, clip: false}\n")
    settings = settings_of(Toy, "--config", str(file), "--alpha", "1.0")
    assert settings.model == "from-file"
    # 1.0 is the class default: it counts because it was given, not because it differs.
    assert settings.loss == Loss(alpha=1.0, clip=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nloss: {alhpa: 1}\n", "loss.alhpa: there is no such setting"),
        ("model: m\nloss: 3\n", "loss: Input should be a valid dictionary"),
        ("- model\n", "is not a mapping"),
        ("model: [\n", "Cannot read"),
        ("loss: {alpha: 1}\n", "model: Field required"),
    ],
)
def test_a_faulty_file_is_explained(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    result, settings = invoke(Toy, "--config", str(file), "--kind", "sum")
    assert (result.exit_code, settings) == (2, None)
    assert message in result.stderr
    assert str(file) in result.stderr


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (DefendRun, "--beta -1", "distill.beta: Input should be greater than or equal to 0"),
        (PoisonRun, "--poison-rows 5 --poison-rate 0.5", "attack: give poison_rows or poison_rate"),
        (PoisonRun, "--config missing.yaml", "Cannot read missing.yaml"),
    ],
)
def test_a_wrong_value_is_explained_before_anything_runs(kind, arguments, message):
    result, settings = invoke(kind, *arguments.split())
    assert (result.exit_code, settings) == (2, None)
    assert f"Error: {message}" in result.stderr.replace("The command line is not valid: ", "")
    assert "\nFix: " in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [("--place", "middle"), ("--epochs", "x"), ("--epoch", "1")])
def test_what_does_not_parse_is_refused(arguments):
    result, settings = invoke(PoisonRun, *arguments)
    assert (result.exit_code, settings) == (2, None)
    assert arguments[0] in result.stderr


def test_the_help_shows_defaults_descriptions_and_headings():
    result, _ = invoke(Toy, "--help")
    for expected in (
        "Play.",
        "\nWeights of the loss:\n",
        "\nThe helper:\n",
        "Model. Required.",
        "Weight of the labels.  [3.0]",
        "Weight of the labels.  [0.5]",
        "--no-clip  ",
        "(sum|mean)  [mean]",
        "--no-helper-clip",
        "--set SECTION.KEY=VALUE",
    ):
        assert expected in result.output
    assert "Not for the help" not in result.output
    assert "None" not in result.output


def test_two_settings_cannot_share_a_flag():
    class Clash(Settings):
        """Two models."""

        model: str = "a"
        helper: Helper = Helper()

    with pytest.raises(ValueError, match=r"helper\.model and model both define --model"):
        add_command(typer.Typer(), Clash, print)


def test_a_type_that_no_flag_can_hold_is_a_mistake_of_the_settings():
    class Odd(Settings):
        """A mapping."""

        weights: dict[str, float] = {}

    with pytest.raises(TypeError, match="Odd.weights"):
        add_command(typer.Typer(), Odd, print)


def test_an_error_of_the_user_is_printed_with_its_fix(capsys):
    @run_or_explain
    def fails():
        raise DataError("There is no [red]file[/red].", f"Look in {'/a' * 100}.")

    with pytest.raises(SystemExit) as caught:
        fails()
    assert caught.value.code == 2
    error = "Error: There is no [red]file[/red].\n" + f"Fix: Look in {'/a' * 100}.\n"
    assert capsys.readouterr().err == error


def test_an_error_of_ours_keeps_its_traceback():
    @run_or_explain
    def fails():
        raise KeyError("mistake")

    with pytest.raises(KeyError):
        fails()


class Placed(Settings):
    """A run with a setting that is given by its place."""

    recipe: str = Field(description="Recipe.", json_schema_extra={"argument": True})
    size: int = Field(1, description="Size.")


def test_a_setting_may_be_given_by_its_place(tmp_path):
    assert settings_of(Placed, "table1", "--size", "2") == Placed(recipe="table1", size=2)
    assert "--recipe" not in invoke(Placed, "--help")[0].output
    (tmp_path / "run.yaml").write_text("recipe: table2")
    assert settings_of(Placed, "--config", str(tmp_path / "run.yaml")) == Placed(recipe="table2")
    result, settings = invoke(Placed)
    assert (result.exit_code, settings) == (2, None)
    assert "recipe: Field required" in result.output


class Deep(Settings):
    """A run with a setting that few need."""

    loss: Loss = Loss()
    rate: float = setting(0.1, "Rate. It is small.", advanced=True)
    names: tuple[str, ...] = Field((), description="Names.")


def test_any_setting_can_be_set_by_its_key():
    given = ("--set", "loss.warm-up=3", "--set", "names=[a, b]", "--set", "rate=1e-3")
    assert settings_of(Deep, *given) == Deep(loss=Loss(warm_up=3), names=("a", "b"), rate=1e-3)
    result, settings = invoke(Deep, "--set", "rate")
    assert (result.exit_code, settings) == (2, None)
    assert "--set 'rate' is not section.key=value" in result.stderr
    assert "loss.beta: there is no such setting" in invoke(Deep, "--set", "loss.beta=1")[0].stderr


def test_an_advanced_setting_is_not_in_the_help_and_its_flag_says_what_replaces_it():
    output = invoke(Deep, "--help")[0].output
    assert "--rate" not in output and "--alpha" in output
    result, settings = invoke(Deep, "--rate", "0.5")
    assert settings == Deep(rate=0.5)
    assert "Warning: --rate is deprecated; use --set rate=..." in result.stderr
    everything = invoke(Deep, "--help-all")[0].output
    assert "rate  [0.1]\n    Rate. It is small." in everything
    assert "loss.warm_up  [null]" in everything


# The help of the real commands


def help_of(*arguments: str) -> str:
    environment = {"COLUMNS": "100", "NO_COLOR": "1"}
    result = CliRunner().invoke(real, [*arguments, "--help"], env=environment)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_help_of_defend_fits_on_two_screens():
    assert len(help_of("defend").splitlines()) <= 90


@pytest.mark.parametrize("name", DEFENSES)
def test_the_help_shows_the_settings_of_the_chosen_defense_alone(name):
    output = help_of("defend", "--defense", name)
    assert output == help_of("defend", f"--defense={name}")
    for section, (owner, settings) in own_sections().items():
        prefix = owner.replace("_", "-")
        fields = (field.replace("_", "-") for field in settings.model_fields)
        shown = [field for field in fields if f"--{prefix}-{field}" in output]
        assert bool(shown) == (owner == name), section
    assert ("--lora-r" in output) == ("adapter" in DEFENSES[name].sections())
    assert ("--teacher-model" in output) == (name == "w2s")


def test_the_help_shows_the_settings_of_the_chosen_attack_alone(tmp_path):
    assert "--syn-file" not in help_of("poison")
    assert "--syn-file" in help_of("poison", "--attack", "synattack")
    assert "--pro-clean-prompt" in help_of("evaluate", "--trigger", "proattack")
    file = tmp_path / "run.yaml"
    file.write_text("task: reasoning\ntest: {more_triggers: [synattack]}\n")
    output = help_of("defend", "--config", str(file))
    assert "--syn-file" in output and "--prompt-template" in output
    assert "--target-column" in output and "--label-column" not in output


def test_the_help_shows_the_settings_of_the_chosen_adapter_alone():
    assert "--encoder-width" in help_of("defend", "--adapter", "p-tuning")
    assert "--encoder-width" not in help_of("defend")


def test_an_old_flag_keeps_working_for_a_release():
    flags = ("table1", "--ray-defend-gpus", "0.5", "--launcher", "local")
    with pytest.warns(FutureWarning, match="ray.defend.gpus is now ray.gpus"):
        assert settings_of(BenchRun, *flags) == BenchRun(recipe="table1", ray=RayConfig(gpus=0.5))
    assert "launcher" not in invoke(BenchRun, "--help-all")[0].output


# The rest of the command line


def test_the_module_is_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["w2s", "--help"])
    with pytest.raises(SystemExit):
        runpy.run_module("w2sdefense", run_name="__main__")
    assert "Remove backdoors from language models" in capsys.readouterr().out


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    monkeypatch.setattr("w2sdefense.cli.app.version", {"w2sdefense": "1.2.3"}.get)
    result = CliRunner().invoke(real, ["--version"])
    assert (result.exit_code, result.output) == (0, "w2sdefense 1.2.3\n")


def test_bitsandbytes_does_not_ask_for_compiled_code_in_every_command(caplog):
    logging.getLogger("bitsandbytes.backends.cpu.ops").warning("install kernels")
    assert not caplog.records


def test_ls():
    result = CliRunner().invoke(real, ["ls"])
    assert result.exit_code == 0
    names = "reasoning badnet insent synattack w2s lora sst2 smollm2-135m minilm-l6".split()
    for said in (*names, "ape210k (reasoning)", "sst2 is poisoned on imdb"):
        assert said in result.output
