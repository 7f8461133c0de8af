"""A grid of real stages on models of a few thousand weights, as a file of recipes."""

from pathlib import Path

from tiny import save_bert, save_llama, save_reviews
from w2sdefense.bench.grid import make_grid
from w2sdefense.bench.ledger import Ledger
from w2sdefense.bench.nodes import StageMaker
from w2sdefense.bench.runner import Job, run_here
from w2sdefense.commands.runs import BenchRun

RECIPES = """
common: {{student: [{folder}/llama], teacher: [{folder}/bert], dataset: [{folder}/reviews],
          proxy: [same], attack: [badnet], seed: [0]}}
scales:
  tiny:
    threads: 1
    settings:
      both: {{student: {{max_length: 24}}}}
      poison:
        attack: {{poison_rate: 0.2}}
        training: {{epochs: 1, batch_size: 8, learning_rate: 0.001, save_steps: 3}}
      defend:
        adapter: {{lora_r: 4}}
        training: {{epochs: 1, batch_size: 8, learning_rate: 0.001, save_steps: 3}}
        teacher: {{epochs: 1, batch_size: 8, max_length: 24}}
        decoys: {{per_label: 0}}
recipes:
  three:
    title: Three models
    axes: {{method: [poisoned, lora, w2s]}}
"""


def save_recipes(folder: Path) -> str:
    """Models, texts and recipes in a folder; returns the name of the recipe."""
    save_llama(folder / "llama")
    save_bert(folder / "bert")
    save_reviews(folder / "reviews", train=48, validation=16, test=40)
    (folder / "tiny.yaml").write_text(RECIPES.format(folder=folder))
    return f"{folder / 'tiny.yaml'}:three"


def work_on(recipe: str, output: Path) -> None:
    """Run the grid, as a command would."""
    grid = make_grid(BenchRun(recipe=recipe, scale="tiny", output=output))
    run_here(Job(grid.nodes, Ledger(output), StageMaker()))
