"""A data file is not trusted: whatever is in it, the answer is rows or a `DataError`."""

import csv
import json
import random
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.data_files import Campaign, arrow_folders
from w2sdefense.config import DataConfig
from w2sdefense.data import Example, load_dataset
from w2sdefense.errors import DataError


def try_to_load(path: Path) -> bool:
    """Whether it was loaded; every other error than a `DataError` of two lines ends the test."""
    try:
        load_dataset(DataConfig(dataset=str(path)))
    except DataError as error:
        assert "\n" not in error.problem.replace(str(path), "")
        assert len(error.problem) < 4000
        return False
    return True


def write(folder: Path, name: str, raw: bytes) -> Path:
    path = folder / name
    path.write_bytes(raw)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


HEADS = [b"", b"text,label\n", b'{"text": ', b"PAR1", b"\x1f\x8b\x08", b"\xef\xbb\xbf"]


@given(st.binary(max_size=200))
def test_any_bytes(folder, raw):
    for name in ("a.csv", "a.jsonl", "a.parquet", "a.csv.gz", "a.jsonl.zst"):
        try_to_load(write(folder, name, HEADS[sum(raw) % len(HEADS)] + raw))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, "\ud83d", "nan", "1e999", 2**64, -0.0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
objects = st.fixed_dictionaries({}, optional={"text": values | st.text(), "label": values})


GOOD = [{"text": f"text {i}", "label": i % 2} for i in range(12)]


@given(st.lists(objects | values, min_size=1, max_size=6))
def test_any_json(folder, rows):
    for some in (rows, *([*GOOD, row] for row in rows)):
        try_to_load(write(folder, "a.jsonl", "\n".join(map(json.dumps, some)).encode()))


cells = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["1", "0.0", "1e400", "nan", "9" * 5000, '"', "a,b", "\r", "\x00"]
)


@given(
    st.lists(st.sampled_from(["text", "label", "", "x"]), max_size=4),
    st.lists(st.lists(cells, max_size=4), max_size=6),
    st.sampled_from([",", ";", ',"', "\n"]),
)
def test_any_csv(folder, header, rows, mark):
    good = [[row["text"], str(row["label"])] for row in GOOD]
    for some in ([header, *rows], *([["text", "label"], *good, row] for row in rows)):
        lines = "\n".join(mark.join(row) for row in some)
        try_to_load(write(folder, "a.csv", lines.encode()))


# One dataset in every format

PAIRS = [[0, 1], [0.0, 1.0], [0.1, 2.5], [True, False], ["yes", "no"], ["1.0", "0.0"]]
labels = st.sampled_from([*PAIRS, ["True", "false"]])
texts = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12),
    min_size=12,
    max_size=16,
)


@given(texts, labels)
def test_the_same_rows_are_the_same_dataset_in_every_format(tmp_path_factory, texts, labels):
    folder = tmp_path_factory.mktemp("formats")
    texts = [f"text {i} {text}" for i, text in enumerate(texts)]
    rows = [{"text": text, "label": labels[i % 2]} for i, text in enumerate(texts)]
    table = pa.Table.from_pylist(rows)
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *(row.values() for row in rows)])
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(table, folder / "a.parquet")
    single = pa.float32() if table["label"].type == pa.float64() else table["label"].type
    pq.write_table(table.cast(pa.schema({"text": "string", "label": single})), folder / "a.PARQUET")
    compress(folder / "a.jsonl", folder / "a.jsonl.gz", "gzip")
    compress(folder / "a.csv", folder / "a.csv.zst", "zstd")
    files = sorted(folder.iterdir())
    loaded = [load_dataset(DataConfig(dataset=str(path))) for path in files]
    assert len(files) == 6
    assert len(loaded[0].label_names) == 2
    for dataset in loaded[1:]:
        assert dataset.label_names == loaded[0].label_names
        for split in ("train", "validation", "test"):
            assert contents(dataset.split(split)) == contents(loaded[0].split(split))


def compress(plain: Path, path: Path, codec: str) -> None:
    path.write_bytes(pa.compress(plain.read_bytes(), codec, asbytes=True))


def contents(examples: Sequence[Example]) -> list[tuple[str, int]]:
    return sorted((example.text, example.label) for example in examples)


def test_files_of_the_campaign_give_the_right_rows_or_two_lines(tmp_path):
    """Every tenth; `tests/campaign/data_files.py` tries 1,000."""
    campaign, rng = Campaign(tmp_path / "files"), random.Random(0)
    campaign.folder.mkdir()
    cases = [*campaign.cases(900, rng)][::10]
    assert [(case, told) for case in cases if (told := campaign.complaint(case))] == []
    folders = arrow_folders(tmp_path / "arrow", 10, rng)
    assert [told for folder in folders if (told := campaign.complaint_about(folder))] == []
