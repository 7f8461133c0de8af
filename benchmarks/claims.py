"""`docs/paper.md`: the paper claim by claim, what it says beside what we measured.

    python benchmarks/claims.py

The claims and what decides them are in `claims.yaml`, the paper's numbers in
`paper/published.yaml`, ours in tables of results as JSON (`GridTable.write`). Nothing on the page
is typed. A claim is judged on 95 % intervals: if they hold both answers it stays open. Results of
older code are judged only where there are none of the present code, and the page says so.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal

import typer

from w2sdefense.config import Settings, load_settings, read_yaml
from w2sdefense.errors import DataError
from w2sdefense.evaluation.states import Change
from w2sdefense.io import write_text
from w2sdefense.paper import PAPER_METHODS, Value, about_published, published
from w2sdefense.report.grid import PLAIN
from w2sdefense.report.tables import escape, markdown_table
from w2sdefense.version import code_version

AGREES, DISAGREES, OPEN, COLLAPSED = "agree", "disagree", "open", "collapsed"
OUTCOMES = (AGREES, DISAGREES, COLLAPSED, OPEN)

COLLAPSE = 0.1
"""A model that loses more CA than that against plain LoRA is broken, not cleaned."""

Row = Mapping[str, Any]


CLAIMS = Path(__file__).with_name("claims.yaml")


class Claim(Settings):
    """What the paper claims, and what decides it; `claims.yaml` tells the kinds of checks.

    Attributes:
        table: Where the paper shows it.
        says: The claim.
        rows: Axis -> values of our rows that it is about; null is an axis that a row does not have.
        methods: The methods that are judged.
        check: What decides: its kind and its limit; none if nothing can.
        why_not: Why it cannot be measured on one small machine, as far as it cannot.
    """

    table: str
    says: str
    rows: dict[str, tuple[Value | None, ...]]
    methods: tuple[str, ...]
    check: tuple[Literal["stays", "low", "drops", "keeps", "above"], Value] | None = None
    why_not: str = ""

    @property
    def paper_methods(self) -> set[str]:
        """The same methods by the paper's names."""
        return {PAPER_METHODS.get(method, method) for method in self.methods}

    def is_about(self, row: Mapping[str, Any], *, only_named: bool = False) -> bool:
        """Whether a row has one of the values on every axis.

        Args:
            row: Its values by axis.
            only_named: Axes that the row does not have do not count.
        """
        return all(
            (value if (value := row.get(axis)) != "any" else None) in values
            for axis, values in self.rows.items()
            if axis in row or not only_named
        )


class _ClaimBook(Settings):
    claims: tuple[Claim, ...]


def read_claims() -> tuple[Claim, ...]:
    """The claims of the paper, in its order."""
    return load_settings(_ClaimBook, read_yaml(CLAIMS), CLAIMS.name).claims


@dataclass(frozen=True)
class Finding:
    """One row of ours, judged.

    Attributes:
        row: The row, as its table has it.
        effect: What the claim is about, a share or a difference of two.
        outcome: One of `OUTCOMES`.
        older: Whether older code made it.
    """

    row: Row
    effect: Change
    outcome: str
    older: bool


def write_claims(results: Path, page: Path) -> None:
    """Write the page from the tables of results in a folder.

    Raises:
        DataError: A file is no table of results.
    """
    tables = list(read_tables(results))
    write_text(page, claims_page([(claim, findings(claim, tables)) for claim in read_claims()]))


def read_tables(folder: Path) -> Iterator[list[Row]]:
    """The rows of every table of results in a folder.

    Raises:
        DataError: A file is none.
    """
    for path in sorted(folder.rglob("*.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            yield [row | {"older": _is_older(row)} for row in found["rows"]]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{path} is no table of results.",
                "Name a folder with files like runs/bench/table1-small/table.json.",
            ) from None


def _is_older(row: Row) -> bool:
    return row.get("code") != code_version()


def findings(claim: Claim, tables: Sequence[Sequence[Row]]) -> list[Finding]:
    """The rows of ours that a claim is about, judged; none of older code if there are others."""
    found: dict[str, Finding] = {}
    for rows in tables:
        for row in rows:
            about = row.get("method") in claim.methods and claim.is_about(row)
            if about and row.get("ca") is not None and (finding := _judge(claim, row, rows)):
                # A run may stand in several tables.
                key = json.dumps([row.get(name) for name in ("method", "seed", *_MARKS)])
                found.setdefault(key, finding)
    present = {f.row["method"] for f in found.values() if not f.older}
    return [f for f in found.values() if not f.older or f.row["method"] not in present]


_METRICS = ("ca", "asr", "floor")
_MARKS = ("dataset", "attack", *_METRICS, "ca_n", "asr_n")
"""What tells that two rows are of one run."""


def _judge(claim: Claim, row: Row, rows: Sequence[Row]) -> Finding | None:
    if claim.check is None:
        return None
    kind, limit = claim.check
    metric = "ca" if kind == "keeps" else "asr"
    plain = next((r for r in rows if _is_pair(row, r, PLAIN)), None)
    if kind in ("stays", "low"):
        effect = _measured(row, metric)
    else:
        against = str(limit) if kind == "above" else PLAIN
        other = next((r for r in rows if _is_pair(row, r, against)), None)
        if other is None or row.get(metric) is None or other.get(metric) is None:
            return None
        pair = (row, other) if kind == "above" else (other, row)
        one, two = (_measured(each, metric) for each in pair)
        effect = one.minus(two)
    share = 0.0 if kind == "above" else float(limit) / 100
    outcome = OPEN
    if effect.low > share or effect.high < share:
        outcome = AGREES if (effect.low > share) == (kind not in ("low", "keeps")) else DISAGREES
    if kind in ("drops", "low") and plain is not None:
        if _measured(plain, "ca").minus(_measured(row, "ca")).low > COLLAPSE:
            outcome = COLLAPSED
        elif kind == "drops" and plain["asr_high"] < share:
            # Plain LoRA left too little that could drop.
            outcome = OPEN
    return Finding(row, effect, outcome, bool(row.get("older")))


def _measured(row: Row, metric: str) -> Change:
    return Change(row[metric], row[f"{metric}_low"], row[f"{metric}_high"])


_NUMBERS = ("ca", "asr", "floor", "rouge", "drop", "loss", "paper", "code", "older", "method")


def _is_pair(row: Row, other: Row, method: str) -> bool:
    """Whether a row is that of another method, and differs in nothing else that both have."""
    if other.get("method") != method:
        return False
    axes = (k for k in row if k in other and k.split("_")[0].rstrip("12L") not in _NUMBERS)
    return all(other[axis] in (row[axis], "any") or row[axis] == "any" for axis in axes)


HEAD = """\
# The paper, claim by claim

Made by `python benchmarks/claims.py` from `benchmarks/claims.yaml`, `paper/published.yaml` and the
tables in `benchmarks/results/bench`; not written by hand. Ours is SmolLM2-135M on one small
machine, the
paper's are models of 7 and 8 billion parameters, so what is compared is what a claim is about: the
drop of ASR and the loss of CA against plain LoRA in the same table. A claim is judged on 95 %
intervals, each form of W2SDefense by itself: `w2s` is this package's default, `w2s-paper` the
paper's own form. *Open* is what the intervals do not decide, or where LoRA left nothing to remove;
*collapsed* a model that has lost more than 10 points of CA against LoRA, whose ASR says nothing.
"""


def claims_page(judged: Sequence[tuple[Claim, Sequence[Finding]]]) -> str:
    """The page as Markdown."""
    counts = Counter(_verdict(claim, found)[0] for claim, found in judged)
    said = ", ".join(f"{number} {name}" for name, number in counts.most_common())
    rows = [(_name(c.table), c.says, _paper_says(c), _summary(c, found)) for c, found in judged]
    table = markdown_table(("", "claim", "paper", "ours"), rows)
    lines = [HEAD, f"{len(judged)} claims: {said}.", "", *table]
    shown = None
    for claim, found in judged:
        if claim.table != shown:
            shown = claim.table
            lines += ["", f"## {_name(shown)}", "", *_about(shown)]
        lines += ["", f"**{escape(claim.says)}** {_summary(claim, found)}", ""]
        lines += _details(claim, found)
    return "\n".join(lines).replace("\n\n\n", "\n\n").rstrip() + "\n"


def _name(table: str) -> str:
    kind = "Table" if table.startswith("table") else "Figure"
    return f"{kind} {table.removeprefix('table').removeprefix('figure')}"


def _about(table: str) -> list[str]:
    paper = published(table)
    flaws = dict.fromkeys(
        f"- {', '.join(map(str, row.row.values()))}: {row.flaw}" for row in paper.rows if row.flaw
    )
    said = [f"{paper.title}."] if paper.title else []
    said += [about_published()] if table == "table1" else []
    wrong = ["", "What is wrong with the paper's numbers:", "", *flaws] if flaws else []
    return [*said, *paper.notes, *wrong]


def _paper_says(claim: Claim) -> str:
    """The paper's numbers for a claim: the mean, and the smallest and largest."""
    kind, limit = claim.check or ("", 0)
    rows = [row for row in published(claim.table).rows if claim.is_about(row.row, only_named=True)]
    methods = claim.paper_methods
    values = []
    for row in (row for row in rows if row.row["method"] in methods):
        metric = "ca" if kind == "keeps" else "asr"
        value = row.numbers.get(metric)
        if kind in ("drops", "keeps", "above") and value is not None:
            against = str(limit) if kind == "above" else PLAIN
            like = {**row.row, "method": against}
            other = next((r.numbers.get(metric) for r in rows if r.row == like), None)
            sign = -1 if kind == "above" else 1
            value = None if other is None else sign * (other - value)
        values += [] if value is None else [value]
    if not values:
        return "in a picture" if claim.table.startswith("figure") else "no number"
    spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{_MEASURES[kind]} {fmean(values):.1f}{spread}"


_MEASURES = {
    "stays": "ASR",
    "low": "ASR",
    "drops": "ASR drop",
    "keeps": "CA loss",
    "above": "ASR above it by",
}


_ASKED = {
    "stays": "is ASR above {}?",
    "low": "is ASR below {}?",
    "drops": "is ASR more than {} points below that of LoRA?",
    "keeps": "is CA less than {} points below that of LoRA?",
    "above": "is ASR above that of `{}`?",
}


def _verdict(claim: Claim, found: Sequence[Finding]) -> tuple[str, str]:
    """How a claim came out in a word, and by method."""
    if not found:
        return ("cannot be measured here" if claim.why_not else "not measured"), ""
    words = []
    for method in claim.methods:
        outcomes = Counter(f.outcome for f in found if f.row["method"] == method)
        if outcomes:
            parts = [f"{outcomes[name]} {name}" for name in OUTCOMES if outcomes[name]]
            words.append(f"`{method}` {', '.join(parts)}")
    names = {f.outcome for f in found}
    return (names.pop() if len(names) == 1 else "mixed"), "; ".join(words)


def _summary(claim: Claim, found: Sequence[Finding]) -> str:
    word, methods = _verdict(claim, found)
    if not found:
        return f"{word}: {claim.why_not}" if claim.why_not else f"{word}."
    older = " (older code)" if all(f.older for f in found) else ""
    return f"{word}{older}: {methods}." + (f" {claim.why_not}" if claim.why_not else "")


_SHOWN = (
    *("method", "student", "dataset", "proxy", "attack", "teacher", "adapter", "rank"),
    *("alpha", "beta", "gamma", "seed"),
)


def _details(claim: Claim, found: Sequence[Finding]) -> list[str]:
    if not found:
        return []
    axes = [a for a in _SHOWN if any(f.row.get(a) not in (None, "any") for f in found)]
    kind, limit = claim.check or ("stays", 0)
    effect = [] if kind in ("stays", "low") else [_MEASURES[kind]]
    heads = [*axes, "CA", "ASR", "floor", "n CA", "n ASR", *effect, "outcome", "code"]
    rows = []
    for f in found:
        cells = [str(f.row.get(axis, "")) for axis in axes]
        measured = (None if f.row.get(m) is None else _measured(f.row, m) for m in _METRICS)
        cells += map(_percent, measured)
        cells += [str(f.row.get(f"{name}_n", "")) for name in ("ca", "asr")]
        cells += [_percent(f.effect)] * len(effect)
        cells.append(f.outcome)
        cells += [f"older ({f.row.get('code') or 'no version'})" if f.older else str(f.row["code"])]
        rows.append(cells)
    return [*markdown_table(heads, rows), "", f"Asked: {_ASKED[kind].format(limit)}"]


def _percent(share: Change | None) -> str:
    if share is None:
        return ""
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def main(
    results: Annotated[
        Path, typer.Option(help="Folder with tables of results (table.json).")
    ] = Path("benchmarks/results/bench"),
    output: Annotated[Path, typer.Option(help="The page.")] = Path("docs/paper.md"),
) -> None:
    """Write the page that goes through the paper's claims, with what was measured of each."""
    write_claims(results, output)


if __name__ == "__main__":
    typer.run(main)
