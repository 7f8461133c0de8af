"""The layers of the package: nothing imports what is on its right.

The imports are read from the source, so one inside a function or under TYPE_CHECKING counts too: a
lazy import hides a backward arrow from Python, not from the reader. Third-party imports are free,
except where the start of the command line would pay for them.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "w2sdefense"

LAYERS = (
    ("errors", "io", "bounded", "config", "version"),
    ("paper",),
    ("data",),
    ("text",),
    ("models",),
    ("tasks",),
    ("attacks",),
    ("training",),
    ("victim",),
    ("distill",),
    ("scan",),
    ("defenses",),
    ("evaluation",),
    ("tuning",),
    ("report",),
    ("play",),
)
"""Modules and packages, from left to right."""

TOP = ("__main__", "commands", "bench", "cli")
"""What puts the stages together."""


def rank(module: str) -> int | None:
    """Place of a first-level module in the order; None if it has none.

    The package itself (`__init__.py`) is leftmost: importing any module runs it.
    """
    if module == "__init__":
        return -1
    if module in TOP:
        return len(LAYERS)
    return next((i for i, layer in enumerate(LAYERS) if module in layer), None)


def imported_modules(file: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Line and first-level module of every import of the package's own modules in a file."""
    parents = [package.name, *file.relative_to(package).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            # `from package import module` names the module only behind the import.
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == package.name:
                yield node.lineno, rest.split(".")[0] or "__init__"


def backward_arrows(package: Path) -> list[str]:
    """Every import of a module on the right, and every module that has no place in the order."""
    found = []
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        own = rank(path.parts[0].removesuffix(".py"))
        if own is None:
            found.append(f"{path}: has no place in LAYERS")
            continue
        for line, module in imported_modules(file, package):
            theirs = rank(module)
            # An unknown name is a module that is reported itself, or an attribute of the package.
            if theirs is not None and theirs > own:
                found.append(f"{path}:{line}: imports {module}")
    return found


def test_nothing_imports_what_is_on_its_right():
    assert backward_arrows(PACKAGE) == []


def test_the_page_of_the_architecture_names_the_layers_in_their_order():
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = [tuple(re.findall(r"`(\w+)`", row)) for row in rows]
    assert named[:-1] == list(LAYERS)
    assert set(named[-1]) == set(TOP) - {"__main__"}


@pytest.mark.parametrize(
    ("file", "source", "arrows"),
    [
        ("data/load.py", "from pkg.errors import DataError", []),
        ("cli/run.py", "import pkg.report.html", []),
        ("report/html.py", "from pkg.evaluation import record\nimport torch.report", []),
        ("data/load.py", "import pkg.models.load", ["data/load.py:1: imports models"]),
        ("data/load.py", "from pkg import models", ["data/load.py:1: imports models"]),
        ("data/load.py", "from ..models import f", ["data/load.py:1: imports models"]),
        ("data/load.py", "def f():\n    import pkg.cli", ["data/load.py:2: imports cli"]),
        ("attacks/a/b.py", "from ... import victim", ["attacks/a/b.py:1: imports victim"]),
        ("defenses/w2s.py", "import pkg.evaluation", ["defenses/w2s.py:1: imports evaluation"]),
        ("__init__.py", "from pkg.data import types", ["__init__.py:1: imports data"]),
        ("helpers.py", "", ["helpers.py: has no place in LAYERS"]),
    ],
)
def test_a_backward_arrow_is_found(tmp_path, file, source, arrows):
    path = tmp_path / "pkg" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert backward_arrows(tmp_path / "pkg") == arrows


def test_the_start_of_the_command_line_is_light():
    """Nor do help and typos wait for torch."""
    code = (
        "import sys\n"
        "import w2sdefense, w2sdefense.config, w2sdefense.attacks, w2sdefense.defenses\n"
        "from w2sdefense.cli.app import app\n"
        "for words in (['--help'], ['defend', '--help'], ['defend', '--gamma', 'x']):\n"
        "    try: app(words)\n"
        "    except SystemExit as stop: print('status', stop.code)\n"
        "print({'torch', 'transformers', 'datasets', 'sklearn'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = run.stdout.splitlines()
    assert [line for line in said if line.startswith("status")] == ["status 0"] * 2 + ["status 2"]
    assert said[-1] == "set()"
