"""A data file is not trusted: whatever is in it, the answer is rows or a `DataError`."""

import csv
import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.data_files import Campaign
from w2sdefense.config import DataConfig
from w2sdefense.data import Example, load_dataset
from w2sdefense.errors import DataError

TRIES = settings().max_examples


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
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


HEADS = [b"", b"text,label\n", b'{"text": ', b"PAR1", b"\x1f\x8b\x08", b"\xef\xbb\xbf"]


@given(st.binary(max_size=200))
def test_any_bytes(folder: Path, raw: bytes) -> None:
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
def test_any_json(folder: Path, rows: list[Any]) -> None:
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
def test_any_csv(folder: Path, header: list[str], rows: list[list[str]], mark: str) -> None:
    good = [[row["text"], str(row["label"])] for row in GOOD]
    for some in ([header, *rows], *([["text", "label"], *good, row] for row in rows)):
        lines = "\n".join(mark.join(row) for row in some)
        try_to_load(write(folder, "a.csv", lines.encode()))


def arrow_columns() -> list[pa.Array]:
    """Columns of 12 values each, some of which are too large for any Python type."""
    size = 12
    numbers = list(range(size))
    far = pa.array([2**62] * size)
    return [
        pa.array([f"text {i}" for i in numbers]),
        pa.array([i % 2 for i in numbers]),
        pa.array([i % 2 == 0 for i in numbers]),
        pa.array([float(i % 2) for i in numbers]),
        pa.array([float("nan"), float("inf"), None] * 4),
        pa.array([i % 2 for i in numbers], pa.int8()),
        pa.array([float(i % 2) for i in numbers], pa.float32()),
        pa.array([b"\xff\xfe"] * size),
        pa.array([b"caf\xe9"] * size).view(pa.string()),
        far.cast(pa.timestamp("us")),
        far.cast(pa.timestamp("us", tz="nowhere/at-all")),
        far.cast(pa.duration("us")),
        pa.array([2**31 - 1] * size, pa.date32()),
        pa.array([[0, 1]] * size),
        pa.array([{"text": "a"}] * size),
        pa.array([None] * size),
        pa.array(["good", "bad", None] * 4).dictionary_encode(),
        pa.array([f"text {i}" for i in numbers], pa.large_string()),
        pa.array([1] * size).cast(pa.decimal128(38, 2)),
    ]


@given(
    st.data(),
    st.lists(st.sampled_from(["text", "label", "x", "", "text.label"]), max_size=4),
)
def test_any_parquet(folder: Path, data: st.DataObject, names: list[str]) -> None:
    columns = [data.draw(st.sampled_from(range(19))) for _ in names]
    table = pa.Table.from_arrays([arrow_columns()[i] for i in columns], names=names)
    sink = io.BytesIO()
    pq.write_table(table, sink)

    try_to_load(write(folder, "a.parquet", sink.getvalue()))


# Files that were whole once


def whole_files() -> dict[str, bytes]:
    rows = [{"text": f"text number {i}, all in all", "label": i % 2} for i in range(20)]
    jsonl = "\n".join(map(json.dumps, rows)).encode()
    csv = "\n".join(["text,label", *(f'"{r["text"]}",{r["label"]}' for r in rows)]).encode()
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    files = {"a.jsonl": jsonl, "a.csv": csv, "a.parquet": sink.getvalue()}
    for suffix, codec in (("gz", "gzip"), ("zst", "zstd")):
        files[f"a.jsonl.{suffix}"] = pa.compress(jsonl, codec, asbytes=True)
    return files


def flip(raw: bytes, rng: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(changed)


def cut(raw: bytes, rng: random.Random) -> bytes:
    return raw[: rng.randrange(len(raw))]


def hole(raw: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randrange(len(raw)), rng.randrange(len(raw))))
    return raw[:start] + bytes(end - start) * rng.randint(0, 1) + raw[end:]


def repeat(raw: bytes, rng: random.Random) -> bytes:
    start, end = sorted((rng.randrange(len(raw)), rng.randrange(len(raw))))
    return raw[:end] + raw[start:]


def insert(raw: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(raw))
    odd = rng.choice([b"\x00", b'"', b"\n", b"\r", b"[" * 5000, b"9" * 5000, b"\xff", b"\\ud83d"])
    return raw[:place] + odd + raw[place:]


@pytest.mark.parametrize("mangle", [flip, cut, hole, repeat, insert])
def test_mangled_files(tmp_path: Path, mangle: Callable[[bytes, random.Random], bytes]) -> None:
    rng = random.Random(mangle.__name__)
    files = whole_files()
    for name, raw in files.items():
        assert try_to_load(write(tmp_path, name, raw))
        loaded = [try_to_load(write(tmp_path, name, mangle(raw, rng))) for _ in range(TRIES)]
        assert not all(loaded)


@pytest.mark.parametrize("mangle", [flip, cut, hole, repeat])
def test_mangled_arrow_folders(
    tmp_path: Path, mangle: Callable[[bytes, random.Random], bytes]
) -> None:
    rng = random.Random(mangle.__name__)
    datasets.Dataset.from_list(GOOD * 2).save_to_disk(str(tmp_path))
    assert try_to_load(tmp_path)
    for path in tmp_path.iterdir():
        raw = path.read_bytes()
        for _ in range(TRIES // 4):
            path.write_bytes(mangle(raw, rng))
            try_to_load(tmp_path)
        path.write_bytes(raw)


# One dataset in every format

labels = st.sampled_from(
    [
        [0, 1],
        [0.0, 1.0],
        [0.1, 2.5],
        [True, False],
        ["yes", "no"],
        ["1.0", "0.0"],
        ["True", "false"],
    ]
)
texts = st.lists(
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=12),
    min_size=12,
    max_size=16,
)


@given(texts, labels)
def test_the_same_rows_are_the_same_dataset_in_every_format(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], labels: list[Any]
) -> None:
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


def test_files_of_the_campaign_give_the_right_rows_or_two_lines(tmp_path: Path) -> None:
    """Every tenth; `tests/campaign/data_files.py` tries 1,000."""
    campaign = Campaign(tmp_path)
    cases = [*campaign.cases(900, random.Random(0))][::10]
    assert [(case, told) for case in cases if (told := campaign.complaint(case))] == []
