"""From recipes to graphs: nothing is run and no model is opened."""

import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest

from w2sdefense.bench.grid import Grid, make_grid, make_grids
from w2sdefense.bench.local_files import local_files
from w2sdefense.commands.preflight import _check_defense
from w2sdefense.commands.runs import BenchRun, DefendRun, EvaluateRun, PoisonRun, TeachRun
from w2sdefense.defenses import DEFENSES
from w2sdefense.defenses.catalog import sections_of
from w2sdefense.errors import ConfigError, W2SError
from w2sdefense.paper import read_book

BOOK = read_book()
TEACHERS = ("minilm-l6", "gpt2")
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "experiments.md"


def grid(recipe: str, scale: str = "small", **more: Any) -> Grid:
    return make_grid(BenchRun(recipe=recipe, scale=scale, **more))


def kinds(found: Grid) -> dict[str, int]:
    names = [node.kind for node in found.nodes]
    return {name: names.count(name) for name in dict.fromkeys(names)}


OURS = [
    f"{file}:{name}"
    for file in sorted((Path(__file__).parents[2] / "benchmarks").glob("*.yaml"))
    if file.name != "claims.yaml"
    for name in read_book(file).recipes
    if name not in BOOK.recipes
]


@pytest.mark.parametrize("scale", BOOK.scales)
@pytest.mark.parametrize("recipe", [*BOOK.recipes, *OURS])
def test_every_recipe_has_a_graph(recipe, scale):
    found = grid(recipe, scale)
    assert len({tuple(sorted(cell.axes.items())) for cell in found.cells}) == len(found.cells)
    places = {node: place for place, node in enumerate(found.nodes)}
    assert all(places[need] < places[n] for n in found.nodes for need in n.needs.values())


def test_paper_means_all_tables_and_figures_of_the_paper():
    grids = make_grids(BenchRun(recipe="paper", scale="tiny"))
    tables = [f"table{number}" for number in range(1, 14)]
    assert [found.name for found in grids] == [*tables, "figure2", "figure3", "figure4"]


def test_one_victim_for_each_attack_and_one_teacher_for_all():
    assert kinds(grid("table8", attack=("badnet", "insent"))) == {
        "poison": 2,
        "defend": 14,
        "teach": 1,
    }


def test_students_of_one_width_share_their_teacher():
    found = grid("table1", "paper")
    assert kinds(found) == {"poison": 9, "defend": 54, "teach": 2}  # LLaMA3 and Vicuna; Qwen


def test_recipes_share_nodes():
    """The rank of the scale is one of those of the sweep."""
    shared = set(grid("table12").nodes) & set(grid("figure2").nodes)
    assert sorted(node.kind for node in shared) == ["defend"] * 3 + ["poison", "teach"]


def test_a_scale_adds_methods_beside_those_of_a_recipe_but_not_to_those_that_are_chosen():
    def methods(**more: Any) -> list[Any]:
        return [cell.axes["method"] for cell in grid("figure4", **more).cells]

    assert methods() == ["poisoned", "lora", "w2s", "w2s-paper"]
    assert methods(method=("w2s",)) == ["w2s"]
    assert methods(method=("w2s-paper",)) == ["w2s-paper"]
    assert methods(scale="paper") == ["poisoned", "lora", "w2s"]


def test_a_clean_student_carries_no_trigger():
    victim = grid("table10").nodes[0].settings["run"]
    assert victim["attack"]["poison_rate"] == 0.0
    assert victim["attack"]["poison_rows"] is None


def test_a_student_of_ones_own_is_the_base_of_its_victims():
    cell = grid("table12", student=("./mine",), method=("merge",)).cells[0]
    assert cell.node.settings["run"]["merging"]["base"] == "./mine"


def test_demonstrations_have_room():
    for scale, room in (("small", 256), ("paper", 512)):
        for cell in grid("table12", scale, method=("icl",)).cells:
            assert cell.node.settings["run"]["student"]["max_length"] == room


def test_what_a_local_model_or_file_holds_is_a_part_of_the_key(tmp_path):
    def keys() -> list[str]:
        found = grid("table1", student=(str(tmp_path),), attack=("badnet",), dataset=(str(file),))
        return [node.key for node in found.nodes]

    file, weights = tmp_path / "reviews.csv", tmp_path / "model.safetensors"
    file.write_text("text,label")
    weights.write_bytes(b"one")
    first = keys()
    assert keys() == first
    weights.write_bytes(b"another")
    assert not set(keys()) & set(first)


def test_a_folder_that_only_has_the_name_of_something_is_no_part_of_the_key(tmp_path, monkeypatch):
    def keys() -> list[str]:
        return [node.key for node in grid("table1", attack=("badnet",)).nodes]

    monkeypatch.chdir(tmp_path)
    first = keys()
    for name in ("paper", "sst2", "smollm2-135m", "minilm-l6"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "main.tex").write_text("not what is meant")
    assert keys() == first


def test_a_local_model_is_found_at_home_and_without_its_hidden_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model" / ".git").mkdir(parents=True)
    (tmp_path / "model" / "model.safetensors").write_bytes(b"one")
    (tmp_path / "model" / ".git" / "index").write_bytes(b"one")
    named = EvaluateRun(student={"model": "~/model"}, output=tmp_path / "model")
    first = local_files(named)
    assert [mark[0] for mark in first.pop("~/model")] == ["model.safetensors"]
    assert list(first) == ["rotten-tomatoes"]  # where results go is no part of it
    first = local_files(named)
    (tmp_path / "model" / ".git" / "index").write_bytes(b"another")
    assert local_files(named) == first
    (tmp_path / "model" / "model.safetensors").write_bytes(b"another")
    assert local_files(named) != first


def test_a_setting_that_a_defense_does_not_read_gives_no_second_run(tmp_path):
    """LoRA has no loss weights: one row and one run for all of the sweep."""
    (tmp_path / "mine.yaml").write_text(
        "recipes: {mine: {title: Mine, axes: {method: [lora, w2s], gamma: [1.0, 2.0, 3.0]}}}"
    )
    found = grid(f"{tmp_path / 'mine.yaml'}:mine")
    rows = [(cell.axes["method"], cell.axes["gamma"]) for cell in found.cells]
    assert rows == [("lora", "any"), ("w2s", 1.0), ("w2s", 2.0), ("w2s", 3.0)]
    assert kinds(found) == {"poison": 1, "defend": 4, "teach": 1}


def test_a_method_that_is_chosen_keeps_its_part_of_the_rows():
    found = grid("figure2", method=("lora",))
    assert [cell.axes["rank"] for cell in found.cells] == [4, 16, 64, 128]


@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_reads_what_is_said(name, monkeypatch):
    """A key without a setting that is read would pass one result off as another."""
    read = set()

    class Watched(DefendRun):
        def __getattribute__(self, attribute):
            if attribute in DefendRun.model_fields:
                read.add(attribute)
            return super().__getattribute__(attribute)

    run = Watched(defense=name)
    read.clear()
    try:
        DEFENSES[name].of(run).check()
    except W2SError:
        pass  # a program or a package is missing, which it found after reading
    assert read <= sections_of(name)


def test_runs_that_write_text_are_taken_by_the_stage_that_makes_them():
    runs = [node.settings["run"] for node in grid("table6").nodes if node.kind == "defend"]
    assert [run["defense"] for run in runs] == ["lora", "w2s", "w2s"] * 2
    for values in runs:
        _check_defense(DefendRun.model_validate(values))


def test_a_seed_is_a_seed_of_everything():
    first, second = (grid("figure4", seeds=(seed,)) for seed in (0, 1))
    assert not set(first.nodes) & set(second.nodes)
    for cell in second.cells:
        if cell.node.kind == "defend":
            victim = cell.node.needs["victim"].settings["run"]
            # Both are asked the same texts with the trigger at the same places.
            assert victim["attack"]["attack_seed"] == 1
            assert cell.node.settings["run"]["test"]["test_seed"] == 1


def test_runs_of_one_key_have_one_setting():
    """Whichever recipe asks for it: a run that one began the other goes on with."""
    kinds = {"poison": PoisonRun, "teach": TeachRun, "defend": DefendRun}
    seen: dict[str, dict[str, Any]] = {}
    names = ("table5", "table7", "table8", "table12", "figure2", "figure3")
    recipes = [grid(name, proxy=("imdb",), teacher=(t,)) for name in names for t in TEACHERS]
    for node in (node for found in recipes for node in found.nodes):
        run = kinds[node.kind].model_validate(node.settings["run"]).model_dump()
        if node.kind == "teach":
            run.pop("student")  # of which it only knows the width
        assert seen.setdefault(node.key, run) == run
    assert len(seen) < sum(len(found.nodes) for found in recipes)


def test_a_short_name_names_the_dataset_found_under_it(tmp_path, monkeypatch):
    def keys() -> set[str]:
        return {node.key for node in grid("figure4", proxy=("paper",)).nodes}

    def write(folder: str, name: str) -> None:
        (tmp_path / folder / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name / "train.jsonl").write_text(f"{name} of {folder}")

    monkeypatch.delenv("W2S_DATA", raising=False)
    hub = keys()
    monkeypatch.setenv("W2S_DATA", str(tmp_path / "one"))
    write("one", "sst2")
    local = keys()
    assert not local & hub
    write("one", "imdb")
    # The teacher is of the defender's data alone.
    assert {key.split("-")[0] for key in keys() & local} == {"teach"}
    monkeypatch.setenv("W2S_DATA", str(tmp_path / "two"))
    for name in ("sst2", "imdb"):
        write("two", name)
    other = keys()
    assert not other & local
    # A copy elsewhere, made at another time, is the same data.
    shutil.copytree(tmp_path / "two", tmp_path / "three")
    monkeypatch.setenv("W2S_DATA", str(tmp_path / "three"))
    assert keys() == other


@pytest.mark.parametrize(
    "path", ["defend", "defend.adapter", "defence.adapter.lora_r", "defend..r"]
)
def test_a_sweep_that_leads_nowhere(tmp_path, path):
    (tmp_path / "mine.yaml").write_text(
        f"sweeps: {{mine: [{path}]}}\nrecipes: {{q: {{title: Q, axes: {{mine: [1]}}}}}}\n"
    )
    with pytest.raises(ConfigError, match="The sweep mine names"):
        grid(f"{tmp_path / 'mine.yaml'}:q")


def test_a_sweep_of_both_stages(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "sweeps: {length: [both.student.max_length]}\n"
        "recipes: {q: {title: Q, axes: {length: [32, 48], method: [lora]}}}\n"
    )
    for cell in grid(f"{tmp_path / 'mine.yaml'}:q").cells:
        for node in (cell.node, cell.node.needs["victim"]):
            assert node.settings["run"]["student"]["max_length"] == cell.axes["length"]


def test_threads_are_a_part_of_the_settings():
    assert not set(grid("figure4").nodes) & set(grid("figure4", threads=1).nodes)


def test_a_limit_leaves_enough_rows_to_poison():
    victim = grid("figure4", limit=40).nodes[0].settings["run"]
    assert victim["attack"]["poison_rows"] == 10
    assert set(victim["data"].values()) == {40, "sst2"}


def test_lists_are_replaced_by_the_command_line():
    found = grid(
        "table8",
        student=("./mine",),
        teacher=("gpt2",),
        dataset=("rotten-tomatoes",),
        proxy=("imdb",),
        attack=("insent",),
        method=("w2s",),
    )
    (cell,) = found.cells
    victim, teacher = cell.node.needs["victim"], cell.node.needs["teacher"]
    assert victim.settings["run"]["student"]["model"] == "./mine"
    assert victim.settings["run"]["proxy"] == "imdb"
    assert victim.settings["run"]["data"]["dataset"] == "rotten-tomatoes"
    assert victim.settings["run"]["attack"]["attack"] == "insent"
    assert teacher.settings["run"]["teacher"]["model"] == "openai-community/gpt2"
    test = {"trigger": "insent", "target": "negative", "test_seed": 0}
    assert cell.node.settings["run"]["test"] == test


def test_the_prompt_of_proattack_is_the_run_s_own_business():
    """The teacher reads the clean prompt, which a teacher for all does not."""
    assert kinds(grid("table13")) == {"poison": 1, "defend": 3}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"recipe": "table99"}, "no recipe 'table99'"),
        ({"recipe": "table8", "scale": "huge"}, "no scale 'huge'"),
        ({"recipe": "table8", "attack": ("bad",)}, "no attack 'bad'"),
        ({"recipe": "figure2", "method": ("onion",)}, "No row of figure2"),
        ({"recipe": "nowhere.yaml:mine"}, "Cannot read nowhere.yaml"),
    ],
)
def test_what_is_not_there_is_said(settings, problem):
    with pytest.raises(ConfigError, match=problem):
        make_grid(BenchRun(**settings))


def test_a_recipe_of_one_s_own_takes_the_rest_from_the_paper_s(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "names: {attack: {tq: {poison: {attack: {attack: badnet, trigger: tq}}, "
        "defend: {test: {trigger: tq}}}}}\n"
        "sweeps: {epochs: [defend.training.epochs]}\n"
        "recipes: {mine: {title: Mine, axes: {attack: [tq, badnet], epochs: [1, 2]}}}\n"
    )
    found = grid(f"{tmp_path / 'mine.yaml'}:mine")
    assert kinds(found) == {"poison": 2, "defend": 8, "teach": 1}
    assert len(found.cells) == 10  # a victim has no epochs of a defense


def test_the_recipe_of_the_documentation_is_one(tmp_path):
    text = DOCUMENTATION.read_text(encoding="utf-8")
    block = re.search(r"```yaml[^\n]*\n(names:.*?)```", text, re.DOTALL)
    assert block is not None
    (tmp_path / "mine.yaml").write_text(textwrap.dedent(block[1]))
    found = grid(f"{tmp_path / 'mine.yaml'}:rates")
    assert kinds(found) == {"poison": 2, "defend": 8, "teach": 1}
