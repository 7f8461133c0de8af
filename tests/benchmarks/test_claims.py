import json
from pathlib import Path
from typing import Any

import pytest

from claims import Claim, claims_page, findings, read_claims, read_tables, write_claims
from w2sdefense.errors import DataError
from w2sdefense.evaluation.metrics import Rate
from w2sdefense.paper import published
from w2sdefense.version import code_version

ROOT = Path(__file__).parents[2]


def row(method: str, ca: int, asr: int, **more: Any) -> dict[str, Any]:
    """A row of a table as JSON: shares of 200."""
    found: dict[str, Any] = {"dataset": "sst2", "attack": "badnet", "seed": 0, "method": method}
    for name, hits in (("ca", ca), ("asr", asr), ("floor", 10)):
        rate = Rate(hits=hits, total=200)
        found |= {name: rate.value, f"{name}_n": 200}
        found[f"{name}_low"], found[f"{name}_high"] = rate.interval
    return found | {"code": code_version(), "older": False} | more


def claim(kind: str, limit: int | str, *methods: str, **more: Any) -> Claim:
    rows = {"dataset": ("sst2",), "attack": ("badnet",)}
    return Claim(
        table="table1", says="It holds.", rows=rows, methods=methods, check=(kind, limit), **more
    )


LORA = row("lora", 180, 198)


def outcomes(of: Claim, *rows: dict[str, Any]) -> list[str]:
    return [found.outcome for found in findings(of, [list(rows)])]


@pytest.mark.parametrize(
    ("kind", "limit", "ours", "outcome"),
    [
        ("drops", 50, row("w2s", 180, 10), "agree"),
        ("drops", 50, row("w2s", 180, 190), "disagree"),
        ("drops", 50, row("w2s", 180, 98), "open"),
        ("drops", 50, row("w2s", 100, 0), "collapsed"),
        ("keeps", 4, row("w2s", 186, 0), "agree"),
        ("keeps", 4, row("w2s", 150, 0), "disagree"),
        ("keeps", 4, row("w2s", 176, 0), "open"),
        ("stays", 80, row("w2s", 180, 190), "agree"),
        ("stays", 80, row("w2s", 180, 20), "disagree"),
        ("low", 25, row("w2s", 180, 20), "agree"),
        ("low", 25, row("w2s", 180, 90), "disagree"),
        ("low", 25, row("w2s", 100, 0), "collapsed"),
    ],
)
def test_a_claim_is_judged_on_intervals(kind, limit, ours, outcome):
    assert outcomes(claim(kind, limit, "w2s"), LORA, ours) == [outcome]


def test_a_baseline_is_compared_with_the_defense_of_its_table():
    rows = (row("onion", 180, 60), row("prune", 180, 10), row("w2s", 180, 12))
    judged = outcomes(claim("above", "w2s", "onion", "prune"), *rows)
    assert judged == ["agree", "open"]


def test_where_lora_leaves_nothing_there_is_nothing_to_remove():
    assert outcomes(claim("drops", 50, "w2s"), row("lora", 180, 2), row("w2s", 180, 2)) == ["open"]


def test_lora_of_another_seed_or_attack_is_not_compared_with():
    other = row("lora", 180, 198, seed=1)
    assert outcomes(claim("drops", 50, "w2s"), other, row("w2s", 180, 10)) == []


def test_results_of_the_present_code_replace_older_ones(tmp_path):
    old = row("w2s", 180, 190, code=None)
    tables = [[LORA, old | {"older": True}], [LORA, row("w2s", 180, 10)]]
    (found,) = findings(claim("drops", 50, "w2s"), tables)
    assert (found.outcome, found.older) == ("agree", False)
    (tmp_path / "one.json").write_text(json.dumps({"rows": [LORA, old]}))
    (rows,) = read_tables(tmp_path)
    assert [row["older"] for row in rows] == [False, True]


def test_a_run_that_stands_in_two_tables_counts_once():
    tables = [[LORA, row("w2s", 180, 10)], [LORA, row("w2s", 180, 10, rank=64)]]
    assert len(findings(claim("drops", 50, "w2s"), tables)) == 1


def test_the_page_says_what_the_paper_says_and_what_was_not_measured():
    about = claim("drops", 50, "w2s", "w2s-paper", why_not="No GPU.")
    found = findings(about, [[LORA, row("w2s", 180, 10), row("w2s-paper", 100, 0)]])
    page = claims_page([(about, found), (about, [])])
    # LoRA 99.78, 99.78, 92.85 against 2.20, 6.27, 7.04 in Table 1.
    assert "ASR drop 92.3 (85.8 to 97.6)" in page
    assert "`w2s` 1 agree; `w2s-paper` 1 collapsed" in page
    assert "cannot be measured here: No GPU." in page


def test_every_claim_names_a_table_of_the_paper_and_rows_that_it_can_have():
    claims = read_claims()
    tables = {f"table{number}" for number in range(1, 14)} | {"figure2", "figure3", "figure4"}
    assert {each.table for each in claims} == tables
    for each in claims:
        if published(each.table).rows:
            found = [r for r in published(each.table).rows if each.is_about(r.row, only_named=True)]
            assert any(r.row["method"] in each.paper_methods for r in found), each.says


def test_the_committed_page_has_every_claim_and_is_made_of_the_committed_results(tmp_path):
    write_claims(ROOT / "benchmarks" / "results" / "bench", tmp_path / "paper.md")
    made, kept = ((folder / "paper.md").read_text() for folder in (tmp_path, ROOT / "docs"))
    for each in read_claims():
        assert each.says in kept
    assert made.count("\n## ") == kept.count("\n## ") == 16


def test_a_file_that_is_not_a_table_is_refused(tmp_path):
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(DataError, match="is no table of results"):
        list(read_tables(tmp_path))
