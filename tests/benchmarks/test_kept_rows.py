"""What the tables of the benchmarks share."""

from __future__ import annotations

from pathlib import Path

from tables import markdown, percent, with_earlier
from w2sdefense.io import write_json

NAMES = ("attack", "method")


def test_rows_of_another_machine_stay_and_those_of_this_one_are_renewed(tmp_path: Path):
    here = {"attack": "badnet", "method": "w2s", "ca": 0.9}
    table = tmp_path / "table.json"
    assert with_earlier([here], table, NAMES) == [here]
    there = {"attack": "insent", "method": "lora", "ca": 0.8}
    write_json(table, [here | {"ca": 0.5}, there])
    assert sorted(with_earlier([here], table, NAMES), key=str) == sorted([here, there], key=str)


def test_a_share_is_shown_with_its_interval():
    row = {"asr": 0.127, "asr_interval": (0.094, 0.169)}
    assert markdown([row], {"ASR": percent("asr")}).splitlines()[2] == "| 12.7 [9.4, 16.9] |"
