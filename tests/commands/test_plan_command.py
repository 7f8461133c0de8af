"""`w2s plan`: what it tells to run can be run."""

import json
import shlex
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType
from typer.testing import CliRunner

import w2sdefense
from w2sdefense.cli.app import app
from w2sdefense.commands.plan import GIB, LAUNCHERS, Plan, launcher, run_plan
from w2sdefense.commands.runs import DefendRun, PlanRun, TeachRun
from w2sdefense.config import AdapterConfig
from w2sdefense.models.sizes import STUDENTS

pytestmark = pytest.mark.slow  # full-size models are built, without their weights


def w2s(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_plan_of_the_issue():
    output = w2s("plan", "--student", "Qwen/Qwen2.5-14B", "--gpus", 4)
    for said in (
        "language model 14,770,033,664",
        "classifier with adapter 14,266,737,664",
        "275,261,440 of them trained (1.93 %)",
        "torchrun --nproc-per-node 4 -m w2sdefense defend --model Qwen/Qwen2.5-14B",
        "accelerate launch --config_file",
        "w2s teach",
    ):
        assert said in output
    rows = {line.split("│")[1].strip(): line for line in output.splitlines() if "│" in line}
    assert rows["frozen weights"].count("26.1") == 2
    assert rows["fits"].split().count("yes") == 5


def test_json_holds_bytes_and_the_known_name():
    plan = json.loads(w2s("plan", "--student", "LLaMA3-8B", "--json", "--gpu-memory", 16))
    assert plan["settings"]["student"] == "meta-llama/Meta-Llama-3-8B"
    assert plan["parameters"]["trainable"] == plan["parameters"]["adapter"] + 2 * 4096
    single, four_bit = plan["ways"]
    assert (single["name"], single["fits"], single["command"]) == ("single", "no", None)
    assert single["memory"]["weights"] == 2 * (7_504_924_672 + 2 * 4096)
    assert four_bit["fits"] == "with gradient checkpointing"
    assert four_bit["peak_checkpointed"] < 0.9 * 16 * 1024**3 < four_bit["peak"]


def test_float32_takes_twice_the_bytes():
    half = run_plan(PlanRun(student="smollm2-135m")).ways[0].memory
    full = run_plan(PlanRun(student="smollm2-135m", dtype="float32")).ways[0].memory
    assert full.weights == 2 * half.weights
    assert full.adapter == half.adapter


def test_what_defend_would_refuse_is_not_planned():
    arguments = ["plan", "--student", "smollm2-135m", "--dtype", "float16"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "bfloat16" in result.output
    assert "w2s defend" not in result.stdout


PUBLISHED = {
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-3B": 3_085_938_688,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "Qwen/Qwen2.5-14B": 14_770_033_664,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "lmsys/vicuna-7b-v1.5": 6_738_415_616,
    "smollm2-135m": 134_515_008,
}


def test_students_have_their_published_sizes_and_the_table_of_the_documentation_is_right():
    page = (Path(__file__).parents[2] / "docs" / "large-models.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    rows = {
        cells[0]: cells[1:] for cells in ([c.strip() for c in r.split("|")[1:-1]] for r in lines)
    }
    assert PUBLISHED.keys() == STUDENTS.keys()
    for student, shape in STUDENTS.items():
        plan = run_plan(PlanRun(student=student, gpus=4))
        assert plan.sizes.language_model == PUBLISHED[student]
        embedding = 0 if shape.tie_word_embeddings else shape.vocab_size * plan.sizes.width
        assert plan.sizes.backbone == PUBLISHED[student] - embedding
        sizes, ways = plan.sizes, {way.name: way.memory for way in plan.ways}
        share = 100 * sizes.trainable / sizes.total
        assert rows[student] == [
            f"{sizes.language_model / 1e9:.2f}",
            f"{sizes.total / 1e9:.2f}",
            f"{sizes.trainable / 1e6:.1f} M ({share:.2f} %)",
            *(
                f"{ways[name].peak(checkpointing=False) / GIB:.1f} / "
                f"{ways[name].peak(checkpointing=True) / GIB:.1f}"
                for name in ("single", "ddp", "fsdp", "zero3", "4bit")
            ),
            f"{ways['single'].measuring / GIB:.1f}",
        ]


# What it tells to run


PLANNED = PlanRun(
    student="Qwen/Qwen2.5-14B",
    gpus=4,
    gpu_memory=40.0,
    batch_size=8,
    max_length=256,
    adapter=AdapterConfig(lora_r=512, target_modules="q_proj,v_proj"),
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return run_plan(PLANNED)


@pytest.fixture(scope="module")
def commands(plan) -> list[list[str]]:
    return [shlex.split(way.command) for way in plan.ways if way.command]


def settings_of(words: list[str], monkeypatch) -> DefendRun:
    """The settings that `w2s defend` makes of a command; nothing is run."""
    seen: list[DefendRun] = []

    def keep(run, display):
        seen.append(run)
        return []

    monkeypatch.setattr("w2sdefense.commands.defend.run_defend", keep)
    monkeypatch.setattr("w2sdefense.cli.display.show_results", lambda *_: None)
    monkeypatch.setattr("w2sdefense.commands.reporting.finish_defense", lambda *_: [])
    w2s(*words[words.index("defend") :])
    return seen[0]


def test_every_command_means_what_was_planned(plan, monkeypatch):
    planned = [way for way in plan.ways if way.command]
    assert {way.fits for way in planned} == {"yes", "with gradient checkpointing"}
    for way in planned:
        run = settings_of(shlex.split(way.command), monkeypatch)
        assert (run.student.model, run.student.dtype) == ("Qwen/Qwen2.5-14B", "bfloat16")
        assert (run.student.max_length, run.training.batch_size) == (256, 8)
        assert run.adapter == PLANNED.adapter
        assert run.training.gradient_checkpointing == (way.fits != "yes")


def test_the_teacher_comes_first_and_is_the_one_that_is_found(plan, commands, monkeypatch):
    taught: list[TeachRun] = []
    monkeypatch.setattr(
        "w2sdefense.commands.teach.run_teach", lambda run, display: taught.append(run)
    )
    w2s(*shlex.split(plan.teach)[1:])
    run = settings_of(commands[0], monkeypatch)
    assert taught[0].output == run.teacher_folder
    assert taught[0].student.model == run.student.model


@pytest.mark.parametrize(
    ("way", "kind"), [("fsdp", DistributedType.FSDP), ("zero3", DistributedType.DEEPSPEED)]
)
def test_accelerate_opens_what_it_is_told_to(commands, way, kind):
    (words,) = [words for words in commands if str(launcher(way)) in words]
    assert words[: words.index("-m")] == [
        *("accelerate", "launch", "--config_file", str(launcher(way)), "--num_processes", "4")
    ]
    config = load_config_from_file(str(launcher(way)))
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.mixed_precision) == (kind, "no")


def test_every_launcher_is_installed_with_the_package():
    package = Path(w2sdefense.__file__).parent
    assert sorted(path.name for path in (package / "launchers").iterdir()) == sorted(
        LAUNCHERS.values()
    )
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert '"launchers/*"' in project.read_text(encoding="utf-8")
