"""Every attack, dataset, task and adapter of the paper, once, at the size of one small machine.

What is measured: quality on clean text (CA; ROUGE-L over characters of summaries; the share of
exact numbers), ASR and the no-trigger floor of a poisoned model, of plain PEFT, and of W2SDefense,
on the same test texts; where there is no search for triggers, also of W2SDefense with random pieces
in the texts. What each row is stands in `coverage_settings.py`.

What is not: other students, seeds and targets; loss weights and rates were not chosen for a row.
Nor whether summaries and word problems are done well: SmolLM2 was not made for Chinese, which it
reads byte by byte, and a few hundred rows teach it the form of an answer at best.

It runs for an hour or two and is one resumable command. Every finished part of a row is a record in
the runs folder; table, JSON and the page of the documentation are made from those that are there:

    W2S_DATA=... python benchmarks/coverage.py

`--only` takes some rows and `--methods` some defenses, so that two processes with one thread each
(OMP_NUM_THREADS=1) can work beside each other. The two rows of virtual tokens share victim and
teacher with `w2s_small.py`, which are made if they are not there: until then these two belong into
one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from coverage_settings import SETTINGS, Setting
from tables import Row, chosen, markdown, percent, recorded, with_earlier, with_table
from w2s_small import teacher_folder, victim_folder
from w2sdefense.cli.display import Display
from w2sdefense.commands.defend import run_defense
from w2sdefense.commands.evaluate import run_evaluate
from w2sdefense.commands.poison import run_poison
from w2sdefense.commands.runs import DefendRun, EvaluateRun
from w2sdefense.evaluation.record import RECORD
from w2sdefense.io import write_json, write_text
from w2sdefense.paper import published
from w2sdefense.scan.search import texts_to_answer

METHODS = ("lora", "w2s", "w2s-random")
PARTS = ("poisoned", *METHODS)

SPEED = 85e9
"""Operations per second of one quiet core."""


def main(
    folder: Annotated[Path, typer.Option(help="Runs.")] = Path("runs/coverage"),
    w2s_small: Annotated[Path, typer.Option(help="Runs of w2s_small.py.")] = Path("runs/w2s_small"),
    results: Annotated[Path, typer.Option(help="Tables.")] = Path("benchmarks/results"),
    page: Annotated[Path, typer.Option(help="Page with the table.")] = Path("docs/coverage.md"),
    only: Annotated[str, typer.Option(help="Rows to run, comma-separated.")] = "",
    methods: Annotated[str, typer.Option(help="Defenses to run.")] = ",".join(METHODS),
    plan: Annotated[bool, typer.Option(help="Only say what is left, and how long.")] = False,
) -> None:
    """Run what is missing, and write the tables after each part of a row."""
    wanted = chosen(only, SETTINGS) or list(SETTINGS)
    parts = ("poisoned", *chosen(methods, METHODS))
    write = partial(write_tables, folder, results, page)
    if not plan:
        # Before hours of work: a page without marks is seen now.
        write()
    with Display() as display:
        minutes = {name: round(minutes_left(name, parts, folder, w2s_small)) for name in wanted}
        for name, left in minutes.items():
            display.say(f"{name}: about {left} minutes left")
        display.say(f"{sum(minutes.values())} minutes in all, on one quiet core")
        for name in [] if plan else wanted:
            run_row(name, parts, folder, w2s_small, display, write)
    if not plan:
        Console().print((results / "coverage.md").read_text(encoding="utf-8"), soft_wrap=True)


def run_row(
    name: str,
    parts: Sequence[str],
    folder: Path,
    w2s_small: Path,
    display: Display,
    write: Callable[[], None],
) -> None:
    """Poison, measure and defend, but for what is finished; `write` is called after each."""
    setting = SETTINGS[name]
    victim = _victim(name, folder, w2s_small)
    poison = setting.poison.model_copy(update={"output": victim, "resume": True})
    display.say(f"{name}: poisoned")
    run_poison(poison, display)
    if setting.shared:
        # Its record is of more test texts.
        run_evaluate(_measurement(name, folder, w2s_small), display)
    write()
    for run in _defenses(name, folder, w2s_small):
        if run.output.name not in parts:
            continue
        display.say(f"{name}: {run.output.name}")
        run_defense(run, display)
        write()


def _victim(name: str, folder: Path, w2s_small: Path) -> Path:
    if SETTINGS[name].shared:
        return victim_folder(w2s_small, SETTINGS[name].poison.attack.attack)
    return folder / name / "poisoned"


def _defenses(name: str, folder: Path, w2s_small: Path) -> Iterator[DefendRun]:
    setting, own = SETTINGS[name], folder / name
    victim = str(_victim(name, folder, w2s_small))
    common = {
        "student": setting.defend.student.model_copy(update={"model": victim}),
        "teacher_folder": teacher_folder(w2s_small, relu=False, seed=0)
        if setting.shared
        else own / "teacher",
        "resume": True,
    }
    for method, run in zip(METHODS, (setting.defend, setting.defend, setting.random), strict=True):
        if run is not None:
            how = {"defense": method.partition("-")[0], "output": own / method}
            yield run.model_copy(update=common | how)


def _measurement(name: str, folder: Path, w2s_small: Path) -> EvaluateRun:
    run = next(_defenses(name, folder, w2s_small))
    return EvaluateRun(
        student=run.student,
        data=run.data,
        test=run.test,
        output=folder / name / "poisoned",
        resume=True,
    )


def minutes_left(name: str, parts: Sequence[str], folder: Path, w2s_small: Path) -> float:
    """What the missing parts of a row cost by arithmetic, without loading and saving.

    A token costs 0.21 GFLOP forward, three times as much in a step of all parameters, twice in one
    of an adapter. MiniLM costs a tenth, a text of the search has some 13 tokens.
    """
    setting = SETTINGS[name]
    defend, text = setting.defend, setting.tokens
    rows, tests = defend.data.train_samples or 0, defend.data.test_samples or 0
    # About half of the texts, or all, are read with the trigger, too.
    tests = round(tests * 1.6) if setting.labels else 2 * tests
    with_adapter = text + defend.adapter.virtual_tokens * defend.adapter.has_virtual_tokens
    method = (2 * rows + (defend.data.validation_samples or 0) + tests) * with_adapter
    size = 0.1 if setting.labels else 1.0
    teacher = defend.teacher.epochs * rows * 3 * text * size
    scan = texts_to_answer(defend.scan, setting.labels) * 13
    poison = 3 * setting.poison.training.epochs * (setting.poison.data.train_samples or 0) * text
    if setting.shared and (_victim(name, folder, w2s_small) / RECORD).is_file():
        poison, teacher, scan = 0, 0, 0
    costs = {
        "poisoned": poison + tests * text,
        "lora": method,
        "w2s": method + teacher + scan + (0 if setting.labels else rows * text),
    }
    if setting.random is not None:
        costs["w2s-random"] = costs["w2s"] - (teacher + scan if "w2s" in parts else 0)
    missing = [part for part in parts if not (folder / name / part / RECORD).is_file()]
    return sum(costs.get(part, 0) for part in missing) * 0.21e9 / SPEED / 60


def write_tables(folder: Path, results: Path, page: Path) -> None:
    """Make the JSON, the table, and the table in the page, from the records that are there."""
    cells = [(name, part) for name in SETTINGS for part in PARTS]
    rows = [row for cell in cells if (row := _row(folder, *cell)) is not None]
    rows = with_earlier(rows, results / "coverage.json", ("row", "method"))
    rows.sort(key=lambda row: cells.index((row["row"], row["method"])))
    lines: dict[str, Row] = {}
    for row in rows:
        lines.setdefault(row["row"], {})[row["method"]] = row
    table = markdown(list(lines.values()), COLUMNS) + "".join(map(_notes, lines.values()))
    written = with_table(page.read_text(encoding="utf-8"), table)
    write_json(results / "coverage.json", rows)
    write_text(results / "coverage.md", table)
    write_text(page, written)


def _row(folder: Path, name: str, part: str) -> Row | None:
    found = recorded(folder / name / part)
    if found is None:
        return None
    setting = SETTINGS[name]
    poison, defend = setting.poison, setting.defend
    dataset = defend.data.dataset
    return {
        "row": name,
        "method": part,
        "task": defend.task,
        "student": poison.student.model,
        "teacher": defend.teacher.model,
        "adapter": defend.adapter.adapter,
        "attack": defend.test.trigger,
        "target": defend.test.target,
        "proxy": poison.proxy or f"other rows of {dataset}",
        "dataset": dataset,
        "seed": defend.training.seed,
        "rows": defend.data.train_samples,
        "learning_rate": defend.training.learning_rate,
        "paper": _paper(setting),
        **found,
    }


def _paper(setting: Setting) -> str | None:
    table, axes = setting.paper
    found = published(table).of(axes)
    return None if found is None else f"{found.ca} / {found.asr}"


def _any(line: Row) -> Row:
    """One of the parts of a line, for what is the same in all."""
    row: Row = next(iter(line.values()))
    return row


def _of(part: str, name: str) -> Callable[[Row], object]:
    return lambda line: percent(name)(line[part]) if part in line else None


def _metric(row: Row) -> str:
    return "CA" if row["task"] == "classification" else str(row["metric"])


def _each(cell: Callable[[Row], object]) -> Callable[[Row], str]:
    return lambda line: " / ".join(
        str(cell(line[p])) if p in line else "-" for p in PARTS if p in line or p in PARTS[:3]
    )


COLUMNS: dict[str, Callable[[Row], object]] = {
    "row": lambda line: _any(line)["row"],
    "student": lambda line: _any(line)["student"],
    "teacher": lambda line: _any(line)["teacher"],
    "adapter": lambda line: _any(line)["adapter"],
    "attack -> target": lambda line: f"{_any(line)['attack']} -> {_any(line)['target']}",
    "poisoned on -> defended with": lambda line: (
        f"{_any(line)['proxy']} -> {_any(line)['dataset']}"
    ),
    "metric": lambda line: _metric(_any(line)),
    "poisoned": _of("poisoned", "ca"),
    "plain PEFT": _of("lora", "ca"),
    "W2SDefense": _of("w2s", "ca"),
    "ASR poisoned": _of("poisoned", "asr"),
    "ASR plain PEFT": _of("lora", "asr"),
    "ASR W2SDefense": _of("w2s", "asr"),
    "with random pieces: metric": _of("w2s-random", "ca"),
    "ASR": _of("w2s-random", "asr"),
    "floor": _each(lambda row: f"{100 * row['floor']:.1f}"),
    "n, n ASR": lambda line: f"{_any(line)['n_ca']}, {_any(line)['n_asr']}",
    "seconds": _each(lambda row: round(row["seconds"])),
    "paper: metric / ASR": lambda line: _any(line)["paper"] or "not at hand",
}
"""Column -> its cell in a line, which holds the rows of its parts by name."""


def _notes(line: Row) -> str:
    """What the record of the victim says of its texts, below the table."""
    if "poisoned" not in line or not line["poisoned"]["notes"]:
        return ""
    row = line["poisoned"]
    return f"\n- {row['row']}: " + "; ".join(row["notes"]) + "."


if __name__ == "__main__":
    typer.run(main)
