"""Two processes do what one does: the same losses, gradients and answers, and one set of files.

Two processes of gloo are started as `torchrun` starts them, once for all tests here; `accelerate
launch` itself starts those of `test_sharded.py`. The command comes first: a Trainer before it would
make accelerate see the other process, which the command has to do itself.
"""

import socket
from pathlib import Path

import pytest
import yaml
from transformers import LlamaForSequenceClassification

import distributed_worker as worker
from forked import PROCESSES
from tiny import LLAMA, defend_settings, save_model, save_reviews
from w2sdefense.commands.evaluate import run_evaluate
from w2sdefense.commands.runs import EvaluateRun
from w2sdefense.evaluation.record import load_record, load_samples

pytestmark = pytest.mark.slow

SECONDS = 900
"""What hangs is stopped after this time."""


def launch(folder: Path, *words: object) -> str:
    """Run the worker in two processes, which have to end by themselves; returns what they say."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [folder / f"log-{rank}.txt" for rank in range(2)]
    processes = [
        PROCESSES.Process(
            target=worker.launched, args=(rank, port, log, folder, list(map(str, words)))
        )
        for rank, log in enumerate(logs)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
        process.kill()
    said = "".join(log.read_text() for log in logs)
    assert [process.exitcode for process in processes] == [0, 0], said[-3000:]
    return said


# The command


@pytest.fixture(scope="module")
def launched(tmp_path_factory, tiny_llama, tiny_bert) -> tuple[Path, dict, str]:
    """Two processes: the folder that they worked in, the settings of the command, what it said."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "llama").symlink_to(tiny_llama)
    (folder / "bert").symlink_to(tiny_bert)
    model = save_model(folder / "model", LlamaForSequenceClassification, LLAMA)
    reviews = save_reviews(folder / "reviews", train=40, validation=16, test=21)
    settings = defend_settings(model, reviews, tiny_bert, folder / "run")
    settings["training"] = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3}
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    words = ("defend", "--config", folder / "run.yaml")
    return folder, settings, launch(folder, *words)


@pytest.fixture(scope="module")
def defended(launched) -> tuple[dict, str]:
    return launched[1:]


def test_the_command_ends_and_says_everything_once(defended):
    _, said = defended
    assert said.count("CA: accuracy on clean text") == 1
    assert said.count("Look at it") == 1


def test_both_processes_know_of_each_other_from_the_first_stage_on(defended):
    output = Path(defended[0]["output"])
    for folder in (output / "before", output):
        assert load_record(folder).provenance.machine["processes"] == "2"


def test_the_rows_of_a_step_are_divided(defended):
    history = load_record(Path(defended[0]["output"])).history
    assert max(point.step for point in history) == 2 * 40 // (2 * 4)


def test_one_whole_set_of_files_is_left(defended):
    output = Path(defended[0]["output"])
    assert sorted(output.rglob("record.json")) == [
        output / "before" / "record.json",
        output / "record.json",
    ]
    hidden = {path.name for path in output.rglob("*") if path.name.startswith(".")}
    # The file of the folder's lock stays; nothing unfinished does.
    assert hidden <= {".lock"}
    assert not list(output.rglob("checkpoint-*"))
    assert (output / "adapter_model.safetensors").is_file()
    assert (output / "report.html").is_file()


def test_the_answers_are_those_of_one_process(defended, tmp_path, display):
    settings = defended[0]
    kept = {name: settings[name] for name in ("student", "data", "test")}
    alone = EvaluateRun.model_validate(kept | {"output": str(tmp_path / "alone")})
    run_evaluate(alone, display)
    before = Path(settings["output"]) / "before"
    assert load_samples(before) == load_samples(tmp_path / "alone")
    assert load_record(tmp_path / "alone").provenance.machine["processes"] == "1"
    after = load_record(Path(settings["output"])).evaluation
    assert (after.ca.total, after.asr.total) == (21, 10)


# What it is made of


@pytest.fixture(scope="module")
def seen(launched) -> tuple[Path, dict[str, list[worker.Seen]]]:
    return launched[0], worker.seen_in(launched[0])


@pytest.mark.parametrize("accumulation", [1, 2], ids=["first", "accumulated"])
def test_the_first_step_is_that_of_one_process(seen, tmp_path, request, accumulation):
    folder, by_name = seen
    processes = by_name["first" if accumulation == 1 else "accumulated"]
    assert [len(seen["rows"]) for seen in processes] == [worker.GLOBAL_BATCH // 2] * 2
    alone = worker.first_step(folder / "llama", tmp_path, accumulation)
    worker.assert_same_step(processes, alone)


def test_the_first_step_of_a_teacher_is_that_of_one_process(seen, tmp_path):
    folder, by_name = seen
    alone = worker.first_teacher_step(folder / "bert", tmp_path)
    worker.assert_same_step(by_name["teacher"], alone)


@pytest.mark.parametrize("count", [7, 1])
def test_every_process_answers_its_share_and_gets_all_answers(seen, count):
    zero, one = seen[1][f"divided-{count}"]
    for process in (zero, one):
        assert process["answers"].tolist() == list(range(count))
    first = zero["asked"].tolist()
    assert first == list(range((count + 1) // 2))
    assert one["asked"].tolist() == list(range((count + 1) // 2, count)), "a share each"
    assert zero["told"] == 2 * len(first), "progress speaks of all texts"
