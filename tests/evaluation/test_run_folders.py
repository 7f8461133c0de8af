"""Run folders are untrusted: whatever is in them, reading ends in a result or in our error.

`HYPOTHESIS_PROFILE=thorough` tries 1,000 inputs in each test; 1,500 found nothing (2026-11-30).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_record import FEATURES, SAMPLES, record

from w2sdefense.errors import DataError
from w2sdefense.evaluation.record import load_features, load_record, load_samples, save_record
from w2sdefense.evaluation.verdict import judge

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)


@pytest.fixture
def run(tmp_path):
    save_record(tmp_path, record(), SAMPLES, FEATURES)
    return tmp_path


def read(folder: Path) -> None:
    """Read all of a run and judge it; nothing but our error may come out."""
    try:
        found = load_record(folder)
        load_features(folder, load_samples(folder))
    except DataError as error:
        assert str(folder) in error.problem and error.fix
        assert "\n" not in str(error) and len(error.problem) < 700
    else:
        verdict = judge(found.evaluation)
        assert verdict.headline and "nan" not in verdict.headline


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in JSON."""
    items: Any = enumerate(value) if isinstance(value, list) else ()
    items = value.items() if isinstance(value, dict) else items
    return [path, *(p for key, item in items for p in paths(item, (*path, key)))]


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of JSON with another value at a place."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


VALUES = record().model_dump(mode="json")
PLACES = [path for path in paths(VALUES) if path]


@given(st.sampled_from(PLACES), JSON)
def test_any_value_in_place_of_one_of_a_record(run, place, new):
    (run / "record.json").write_text(json.dumps(put(VALUES, place, new)))
    read(run)


@given(JSON | st.binary(max_size=40) | st.integers(1, 3).map(lambda n: "[" * 10_000 * n))
def test_anything_in_place_of_a_record(run, value):
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    (run / "record.json").write_bytes(text.encode() if isinstance(text, str) else text)
    read(run)


@given(st.sampled_from(["samples.parquet", "features.safetensors"]), st.randoms(), st.data())
def test_damaged_samples_and_features(run, name, rng, data):
    save_record(run, record(), SAMPLES, FEATURES)
    content = bytearray((run / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    kept = data.draw(st.sampled_from([len(content), rng.randrange(len(content))]))
    (run / name).write_bytes(content[:kept])
    read(run)


@given(
    st.sampled_from([*SAMPLES[0].model_fields, "label", "says_target"]),
    st.lists(
        st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(0, 2)),
        min_size=2,
        max_size=2,
    ),
)
def test_any_column_in_place_of_one_of_the_samples(run, name, column):
    rows = [sample.model_dump(exclude={"scores"}) for sample in SAMPLES]
    rows = [row | {name: value} for row, value in zip(rows, column, strict=True)]
    try:
        table = pa.Table.from_pylist(rows)
    except pa.ArrowException:
        return
    pq.write_table(table, run / "samples.parquet")
    read(run)


@pytest.mark.parametrize("shape", [(2,), (2, 0), (2, 3, 1), (0, 3), ()])
def test_features_of_another_shape(run, shape):
    save_file({"clean": np.zeros(shape, np.float32)}, run / "features.safetensors")
    read(run)


def test_a_folder_in_place_of_a_file(run):
    (run / "samples.parquet").unlink()
    (run / "samples.parquet").mkdir()
    with pytest.raises(DataError, match="cannot be read as the samples"):
        load_samples(run)
