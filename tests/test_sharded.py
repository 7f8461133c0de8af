"""FSDP2 with the launcher that is shipped: a student in pieces learns what a whole one learns.

Two processes on CPUs; what makes accelerate shard there is in `sharded_worker.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from safetensors.torch import load_file
from transformers import LlamaForSequenceClassification

import distributed_worker as worker
import w2sdefense
from making import as_victim
from tiny import LLAMA, save_model, save_reviews
from w2sdefense.commands.defend import run_defend
from w2sdefense.commands.evaluate import run_evaluate
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, EvaluateRun, PoisonRun, TeachRun
from w2sdefense.commands.teach import run_teach
from w2sdefense.config import DecoyConfig, StudentConfig
from w2sdefense.errors import ConfigError
from w2sdefense.evaluation.record import load_record, load_samples

pytestmark = pytest.mark.slow

SECONDS = 900
"""What hangs is stopped after this time."""

PROCESSES = 2
LAUNCHERS = Path(w2sdefense.__file__).parent / "launchers"


def settings(folder: Path, teacher: Path, batch: int) -> dict:
    """A W2SDefense that draws no random numbers, so that processes can be compared."""
    return {
        "student": {"model": str(folder / "model"), "max_length": 24},
        "data": {"dataset": str(folder / "reviews")},
        "adapter": {"lora_r": 4, "lora_dropout": 0.0},
        "training": {"epochs": 2, "batch_size": batch, "learning_rate": 1e-3},
        "teacher": {"model": str(teacher), "epochs": 1, "max_length": 24},
        "teacher_folder": str(folder / "teacher"),
        "decoys": {"per_label": 0},
        "test": {"trigger": "badnet", "target": "negative"},
    }


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, tiny_llama, tiny_bert, quiet) -> Path:
    """A folder with what two processes saw, and the run of `w2s defend` that they made."""
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "llama").symlink_to(tiny_llama)
    save_model(folder / "model", LlamaForSequenceClassification, LLAMA)
    save_reviews(folder / "reviews", train=40, validation=16, test=21)
    run = settings(folder, tiny_bert, batch=4) | {"output": str(folder / "run")}
    kept = {name: run[name] for name in ("student", "data", "teacher")}
    run_teach(TeachRun.model_validate(kept | {"output": run["teacher_folder"]}), quiet)
    (folder / "run.yaml").write_text(DefendRun.model_validate(run).model_dump_json())
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch"),
            *("--config_file", str(LAUNCHERS / "fsdp2.yaml"), "--num_processes", str(PROCESSES)),
            *("--main_process_port", "0", str(Path(__file__).parent / "sharded_worker.py")),
            *(str(folder), "defend", "--config", str(folder / "run.yaml")),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_every_process_holds_a_part_of_every_weight(sharded):
    zero, one = worker.seen_in(sharded)["first"]
    shares = [name for name in zero if name.startswith("share")]
    assert len(shares) > 40, "frozen weights too"
    for name in shares:
        (mine, total), (theirs, again) = zero[name].tolist(), one[name].tolist()
        assert mine + theirs == total == again
        assert 0.4 * total <= mine <= 0.6 * total, name


def test_the_first_step_is_that_of_one_process(sharded, tiny_llama, tmp_path):
    processes = worker.seen_in(sharded)["first"]
    worker.assert_same_step(processes, worker.first_step(tiny_llama, tmp_path))


def test_the_command_leaves_the_adapter_that_one_process_trains(
    sharded, tiny_bert, tmp_path, display
):
    run = settings(sharded, tiny_bert, batch=4 * PROCESSES) | {"output": str(tmp_path / "alone")}
    run_defend(DefendRun.model_validate(run), display)
    alone = load_file(tmp_path / "alone" / "adapter_model.safetensors")
    gathered = load_file(sharded / "run" / "adapter_model.safetensors")
    assert gathered.keys() == alone.keys()
    assert max(w.abs().max() for name, w in alone.items() if "lora_B" in name) > 3e-3
    for name, weight in alone.items():
        torch.testing.assert_close(gathered[name], weight, rtol=0, atol=1e-4, msg=name)
    assert load_record(sharded / "run").provenance.machine["processes"] == str(PROCESSES)


def test_what_was_measured_is_what_was_saved(sharded, tmp_path, display):
    student = {"model": str(sharded / "run"), "base": str(sharded / "model"), "max_length": 24}
    run = {
        "student": student,
        "data": {"dataset": str(sharded / "reviews")},
        "test": {"trigger": "badnet", "target": "negative"},
        "output": str(tmp_path / "again"),
    }
    run_evaluate(EvaluateRun.model_validate(run), display)
    before, after = sharded / "run" / "before", sharded / "run"
    assert load_samples(tmp_path / "again") == load_samples(after) != load_samples(before)
    assert not [path for path in after.rglob("*") if path.name in ("gathered", "training")]


@pytest.mark.parametrize(
    ("file", "kind"),
    [("fsdp2.yaml", DistributedType.FSDP), ("zero3.yaml", DistributedType.DEEPSPEED)],
)
def test_accelerate_opens_what_is_shipped(file, kind):
    config = load_config_from_file(str(LAUNCHERS / file))
    assert (config.distributed_type, config.mixed_precision) == (kind, "no")


# What cannot be sharded


@pytest.fixture
def sharding_asked(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")


BASE = {"student": StudentConfig(model="x", base="y")}


@pytest.mark.parametrize(
    ("run", "kind", "changes", "what"),
    [
        (run_poison, PoisonRun, {}, "poison"),
        (run_teach, TeachRun, {}, "teach"),
        (run_defend, DefendRun, {"decoys": DecoyConfig(per_label=0)}, "training of a teacher"),
        (run_defend, DefendRun, {"defense": "prune"}, "prune"),
        (run_defend, DefendRun, BASE, "--base"),
    ],
)
def test_what_does_not_run_sharded_is_refused_before_any_work(
    sharding_asked, tmp_path, run, kind, changes, what
):
    with pytest.raises(ConfigError, match=f"{what} does not run under FSDP"):
        run(kind(output=tmp_path / "run", **changes), None)


def test_a_student_without_a_folder_cannot_be_made_gather_student(sharding_asked):
    from w2sdefense.distill.sharding import base_to_reopen

    victim = as_victim(LlamaForSequenceClassification(LLAMA), None)
    with pytest.raises(ConfigError, match="whole model in a folder"):
        base_to_reopen(victim)
