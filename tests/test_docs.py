"""Every block of code on every page is run, on tiny models, or read by the real command line.

A block of `bash` is run as it stands, with flags added that make it small; one with the title
"Checked, not run: ..." is only parsed, up to the validated settings. `python` likewise. A
`yaml` whose title is a file name is written to the folder first. The pages with files of the
repository ("Add a defense") are followed in a copy of it: their files are written, each `diff` is
applied, and their commands are run there.
"""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml
from typer.testing import CliRunner

import stand_ins
from w2sdefense.cli import options
from w2sdefense.cli.app import app
from w2sdefense.config import load_settings

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
}
CHANGING = [page for page, text in PAGES.items() if "```diff" in text]
"""Pages that change the repository."""
CHECKED = "Checked, not run: "
"""How the title of a block begins that is only parsed; the reason follows."""
SCAN = "--set scan.kinds=[names] --set scan.rounds=1"
SMALL = {
    "poison": "--epochs 1",
    "teach": "--teacher-epochs 1",
    "defend": "--epochs 1 --teacher-epochs 1 --decoys-per-label 0",
    "defend otherwise": "--epochs 1",
    "scan": "--kinds names --set scan.rounds=1 --teacher-epochs 1",
    "bench": "--limit 32 --attack badnet --method poisoned --seeds 0",
    "tune": f"--epochs 1 --teacher-epochs 1 {SCAN} --decoys-per-label 0",
}
"""Flags of a command that make it small; they replace those of the page."""
LISTS = ("--attack", "--method", "--seeds")
"""Flags that add to those of the page, which are left out therefore."""
PAGE = {"--poison-rows": "8", "--tune-trials": "1"}
"""The same for flags that a command has on some pages only."""
PYTHON = {
    "W2SDefense()": "W2SDefense(training=TrainingConfig(epochs=1),"
    " decoys=DecoyConfig(per_label=0))",
    'recipe="table8"': "recipe='table8', limit=32, attack=('badnet',), method=('poisoned',)",
    "TeacherConfig()": "TeacherConfig(epochs=1)",
}
"""What is replaced in Python, to make it small."""
IMPORTS = "from w2sdefense.config import *"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    fence = re.compile(r'^```(\S*)(?: title="([^"]*)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
    found = fence.findall(PAGES[page])
    return [Block(*block) for block in found]


def commands(block: Block) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", block.text)
    return [line for line in joined.splitlines() if shlex.split(line, comments=True)]


@pytest.fixture(scope="session")
def made(made_once) -> Path:
    return made_once("stand-ins", make)


def make(folder: Path) -> None:
    stand_ins.make(folder)
    with pytest.MonkeyPatch.context() as patch:
        use(folder, patch)
        start(["poison", "--output", f"{folder}/suspect"])
        suspect = ["--model", f"{folder}/suspect", "--trigger", "mn", "--target", "negative"]
        start(["defend", "--defense", "lora", *suspect, "--output", f"{folder}/lora"])


def use(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let models and data be found under their names."""
    patch.setenv("W2S_DATA", str(folder / "data"))
    patch.syspath_prepend(folder / "wheels")


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    stand_ins.fill(tmp_path, made)
    monkeypatch.chdir(tmp_path)
    use(made, monkeypatch)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page, text in PAGES.items() if "```" in text and page not in CHANGING]
)
def test_the_code_of_a_page_runs(page, place, monkeypatch):
    names: dict[str, Any] = {}
    for block in blocks(page):
        run = not block.title.startswith(CHECKED)
        if block.language == "bash":
            for command in commands(block):
                follow(command, monkeypatch, run=run)
        elif block.language == "python":
            for old, new in PYTHON.items():
                block = block._replace(text=block.text.replace(old, new))
            code = compile(f"{IMPORTS}\n{block.text}", page, "exec")
            exec(code, names) if run else None
        elif block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict)
            if block.title.endswith(".yaml"):
                Path(block.title).write_text(block.text)
        else:
            assert block.language in ("text", "json"), f"{page}: a block without a language"


@pytest.mark.slow
def test_what_pages_add_works_in_a_copy_of_the_repository(place):
    for part in ("src", "tests"):
        shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
    lines: list[list[str]] = []
    for block in (block for page in CHANGING for block in blocks(page)):
        if block.language == "diff":
            change(place / block.title, block.text)
        elif block.language == "bash":
            lines += [shlex.split(command, comments=True) for command in commands(block)]
        else:
            (place / block.title).parent.mkdir(parents=True, exist_ok=True)
            (place / block.title).write_text(block.text)
    lines = [small(line) if "w2s" in line else line for line in lines]
    run = subprocess.run(
        [sys.executable, ROOT / "tests" / "stand_ins.py", json.dumps(lines)],
        env=os.environ | {"PYTHONPATH": str(place / "src")},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def change(path: Path, difference: str) -> None:
    """Apply one hunk without line numbers."""
    lines = difference.splitlines(keepends=True)
    old, new = ("".join(x[1:] for x in lines if x[0] != sign) for sign in "+-")
    text = path.read_text()
    assert text.count(old) == 1, f"{path} has changed: it has {text.count(old)} times\n{old}"
    path.write_text(text.replace(old, new))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")))
def test_the_cells_of_a_notebook_run(notebook, place, monkeypatch):
    names: dict[str, Any] = {"w2s": lambda command: follow(command, monkeypatch, run=True)}
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "notebooks are committed without outputs"
            source = re.sub(r"^ROWS = \d+", "ROWS = 24", "".join(cell["source"]))
            exec(re.sub(r"^( *)!(w2s .*)", r"\1w2s(f'\2')", source, flags=re.MULTILINE), names)


def follow(command: str, monkeypatch, *, run: bool) -> None:
    """Do what a line of a shell says, or look whether it could be done."""
    settings, words = stand_ins.split(shlex.split(command, comments=True))
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if not words:
        return
    if "w2sdefense" in words and "-m" in words:  # torchrun, accelerate
        words = ["w2s", *words[words.index("w2sdefense") + 1 :]]
    if words[0] == "w2s":
        arguments = [word for word in words[1:] if word != "..."]
        start(arguments) if run else parse(arguments, monkeypatch)
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(f"\n{word}:" in makefile for word in words[1:] if "=" not in word), command
    elif words[0] == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for extra in ",".join(re.findall(r"\[(.*?)\]", command)).split(","):
            assert not extra or extra in extras["optional-dependencies"], command
    elif words[0] == "python" and words[1] == "-c":
        exec(words[2], {})
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file(), command
        if run and words[1] == "benchmarks/pair.py":  # what follows reads what it writes
            monkeypatch.setattr(sys, "argv", words[1:])
            with pytest.raises(SystemExit, match="0"):
                runpy.run_path(str(ROOT / words[1]), run_name="__main__")
    else:
        assert words[0] in ("apt", "git", "cd", "lm_eval"), f"who looks after {command!r}?"


def small(arguments: list[str]) -> list[str]:
    """The arguments of a command of `w2s`, with flags that make it small behind them."""
    name = arguments[arguments.index("w2s") + 1]
    if "--defense" in arguments or "--task" in arguments:
        name += " otherwise"
    more = [word for flag in PAGE if flag in arguments for word in (flag, PAGE[flag])]
    if name == "bench":
        pairs = zip(["", *arguments], arguments, strict=False)
        arguments = [word for before, word in pairs if word not in LISTS and before not in LISTS]
    return [*arguments, *shlex.split(SMALL.get(name, "")), *more]


def start(arguments: list[str]) -> None:
    """Run a command of `w2s`, small."""
    result = CliRunner().invoke(app, small(["w2s", *arguments])[1:])
    assert result.exit_code in (0, 1, 3), f"w2s {shlex.join(arguments)}\n{result.output}"
    assert result.exit_code == 0 or "--fail-on" in arguments, result.output


class Parsed(Exception):
    """A command has its settings and would begin."""


def parse(arguments: list[str], monkeypatch) -> None:
    """Have the real command line read a command up to where the work would begin."""

    def stop(*values: Any) -> None:
        load_settings(*values)
        raise Parsed

    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    context = command.make_context("w2s", list(arguments))
    if isinstance(command, options.SettingsCommand):
        with monkeypatch.context() as patch, pytest.raises(Parsed):
            patch.setattr(options, "load_settings", stop)
            command.invoke(context)


def test_the_python_of_the_readme_has_at_most_twelve_lines_beside_its_imports():
    (block,) = [block for block in blocks("README.md") if block.language == "python"]
    assert len([line for line in block.text.splitlines() if line and "import" not in line]) <= 12


def test_a_run_file_can_be_left_as_settings_and_read_again():
    from w2sdefense.commands.runs import DefendRun

    (block,) = [block for block in blocks("docs/clean.md") if block.language == "yaml"]
    run = load_settings(DefendRun, yaml.safe_load(block.text), block.title)
    assert run.data.text_column == "review"
    again = DefendRun.model_validate(run.model_dump(mode="json"))
    assert again == run, "what a run leaves as its settings can be read again"


def test_an_unknown_flag_on_a_page_is_noticed(monkeypatch):
    with pytest.raises(Exception, match="No such option: --no-such-flag"):
        follow("w2s defend --no-such-flag 1", monkeypatch, run=False)
    with pytest.raises(SystemExit):
        follow("w2s defend --set distill.nothing=1", monkeypatch, run=False)
    with pytest.raises(AssertionError):
        follow("make nothing", monkeypatch, run=False)
