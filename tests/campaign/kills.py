"""Kill runs at random moments, or fill the disk under them, and let the same command finish them.

    python tests/campaign/kills.py --runs 50 --output kills.json

Every run is cut off up to ten times before it may end: by SIGKILL, or by writes that fail from a
random moment on. Models, answers and records must then be those of a run that nobody disturbed. The
commands are the real ones, on the tiny models of `tests/`; their processes are forked from one that
imported torch already.
"""

import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

sys.path[1:1] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "bench")]
os.environ.setdefault("OMP_NUM_THREADS", "1")

from forked import PROCESSES, start  # noqa: E402

PROCESSES.set_forkserver_preload(["campaign.ready"])

HOWS = ("killed", "disk full", "too late")
SAME = ("*.safetensors", "*.parquet", "candidates.json", "table.csv")
"""Files that are the same to the byte."""


@dataclass(frozen=True)
class Subject:
    """A command, and what it gets in addition when it goes on."""

    words: tuple[str, ...]
    again: tuple[str, ...] = ("--resume",)
    prepare: Callable[[], None] | None = None

    def start(self, output: Path, log: Path, again: bool = False, **full: Any) -> BaseProcess:
        """Start the command, or go on with it; `full` is the moment of a full disk."""
        words = (*self.words, "--output", str(output), *(self.again if again else ()))
        return start(words, log, prepare=self.prepare, **full)


def tiny_demo(folder: Path) -> None:
    """Give the demonstration tiny models and few texts; its stages stay what they are."""
    from w2sdefense.commands import demo
    from w2sdefense.config import DataConfig, StudentConfig, TeacherConfig

    reviews = str(folder / "reviews")
    demo.ATTACKER = DataConfig(dataset=reviews, train_samples=32)
    demo.DEFENDER = DataConfig(dataset=reviews, train_skip=32)
    demo.TEACHER = TeacherConfig(model=str(folder / "bert"), epochs=1, max_length=24)
    demo.LORA["data"] = demo.W2S["data"] = demo.DEFENDER
    for settings in (demo.LORA, demo.W2S):
        settings["training"] = settings["training"].model_copy(update={"save_steps": 3})
    demo.StudentConfig = partial(StudentConfig, model=str(folder / "llama"))


def subjects(folder: Path) -> dict[str, Subject]:
    """Commands with everything in them that draws random numbers, and what they need."""
    from tiny_grid import save_recipes
    from transformers import LlamaForSequenceClassification

    from tiny import LLAMA, defend_settings, save_bert, save_llama, save_model, save_reviews
    from tiny_writers import TEMPLATE, llama, save_numbers, save_writer

    save_reviews(folder / "reviews", train=64, validation=16, test=20)
    save_bert(folder / "bert")
    save_llama(folder / "llama")
    save_model(folder / "model", LlamaForSequenceClassification, LLAMA)
    save_writer(folder / "writer", llama())
    save_writer(folder / "small", llama(16))
    save_numbers(folder / "numbers", train=48, validation=12, test=12)
    training = {"epochs": 3, "batch_size": 8, "learning_rate": 1e-3, "save_steps": 3}
    defend = defend_settings(folder / "model", folder / "reviews", folder / "bert", folder)
    poison = {
        "student": {"model": str(folder / "llama"), "max_length": 24},
        "data": {"dataset": str(folder / "reviews")},
        "attack": {"clean_label": False},
    }
    text = {
        "task": "reasoning",
        "generation": {"prompt_template": TEMPLATE, "answer_tokens": 3},
        "student": {"model": str(folder / "writer"), "max_length": 24},
        "data": {"dataset": str(folder / "numbers")},
        "teacher": {"model": str(folder / "small"), "epochs": 1, "max_length": 24},
        "adapter": {"lora_r": 4},
        "test": {"trigger": "mn", "target": "0"},
    }
    made = {}
    for name, command, settings in (
        ("poison", "poison", poison),
        ("defend", "defend", defend),
        ("defend-text", "defend", text),
    ):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings | {"training": training, "output": "run"}))
        made[name] = Subject((command, "--config", str(path)))
    (folder / "grid").mkdir()
    recipe = save_recipes(folder / "grid")
    made["demo"] = Subject(("demo",), (), partial(tiny_demo, folder))
    made["bench"] = Subject(("bench", "run", recipe, "--scale", "tiny"), ())
    return made


def results(folder: Path) -> dict[str, str]:
    """What must not differ between two runs: hashes of files, and records without times."""
    found = {}
    for pattern in SAME:
        for path in folder.rglob(pattern):
            if "training" not in path.relative_to(folder).parts:
                found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("record.json"):
        record = json.loads(path.read_text())
        kept = {name: record[name] for name in ("fingerprints", "label_names", "notes")}
        rates = {k: v for k, v in record["evaluation"].items() if "second" not in k}
        found[str(path.relative_to(folder))] = json.dumps([kept, rates], sort_keys=True)
    return found


def undisturbed(subject: Subject, output: Path, log: Path) -> tuple[float, dict[str, str]]:
    """Seconds and results of a run that nobody disturbs."""
    ready = PROCESSES.Process(target=time.time)  # the first one waits until torch is imported
    ready.start()
    ready.join()
    began = time.monotonic()
    process = subject.start(output, log)
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the undisturbed run failed: {log.read_text()[-2000:]}")
    return time.monotonic() - began, results(output)


def disturbed(
    subject: Subject, output: Path, log: Path, seconds: float, rng: random.Random
) -> Counter[str]:
    """Cut a run off two to ten times, then let it end; returns how it was cut off."""
    cuts: Counter[str] = Counter()
    for _ in range(rng.randint(2, 10)):
        moment = seconds * rng.random() ** 3  # a run that goes on has less before it
        if rng.random() < 0.75:
            process = subject.start(output, log, bool(cuts))
            process.join(moment)
            process.kill()
            process.join()
            cuts["killed"] += process.exitcode == -9
        else:
            limit = rng.choice((0, 100, 4000))
            process = subject.start(output, log, bool(cuts), full_after=moment, limit=limit)
            process.join()
            cuts["disk full"] += process.exitcode != 0
        cuts["too late"] += process.exitcode == 0
        if process.exitcode == 0:
            break
    last = subject.start(output, log, again=True)
    last.join()
    if last.exitcode != 0:
        raise RuntimeError(f"it did not go on: {log.read_text()[-3000:]}")
    return cuts


def campaign(subject: Subject, folder: Path, runs: int, rng: random.Random) -> dict[str, Any]:
    """Disturb some runs of a command.

    Args:
        subject: The command.
        folder: An empty folder to work in.
        runs: How many.
        rng: Where the moments come from.

    Returns:
        How often they were killed and had a full disk, and what came out otherwise than it should.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    seconds, expected = undisturbed(subject, folder / "whole", log)
    cuts: Counter[str] = Counter()
    other: list[str] = []
    for number in range(runs):
        log.write_text("")
        output = folder / f"cut-{number}"
        try:
            cuts += disturbed(subject, output, log, seconds, rng)
        except RuntimeError as error:
            other.append(f"run {number}: {error}")
            continue
        found = results(output)
        names = [n for n in {**found, **expected} if found.get(n) != expected.get(n)]
        if names:
            other.append(f"run {number}: {', '.join(sorted(names))}")
        else:
            shutil.rmtree(output)
    counts = {"runs": runs, "seconds undisturbed": round(seconds, 1)}
    return counts | {how: cuts[how] for how in HOWS} | {"different": other}


def main(
    runs: Annotated[int, typer.Option(help="Disturbed runs of each command.")] = 10,
    only: Annotated[str, typer.Option(help="Commands, separated by commas; default: all.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the moments.")] = 0,
    output: Annotated[Path | None, typer.Option(help="JSON file for the counts.")] = None,
) -> None:
    """Disturb runs of every command, and fail if one ends otherwise than undisturbed."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    counts = {}
    for name, subject in subjects(folder).items():
        if not only or name in only.split(","):
            counts[name] = campaign(subject, folder / "runs" / name, runs, random.Random(seed))
            typer.echo(f"{name}: {json.dumps(counts[name])}")
    if output is not None:
        output.write_text(json.dumps(counts, indent=2) + "\n")
    if any(count["different"] for count in counts.values()):
        typer.echo(f"The folders of what differs are kept in {folder}.")
        raise typer.Exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
