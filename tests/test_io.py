"""Files are written whole or not at all."""

from __future__ import annotations

import math

import pytest

from w2sdefense.io import atomic_path, write_json, write_text


def test_a_file_is_written_into_a_new_folder(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "schön\n")
    assert (tmp_path / "a" / "b.txt").read_text(encoding="utf-8") == "schön\n"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "kept.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "table.parquet"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        # Some writers choose the format by the suffix.
        assert temporary.suffix == ".parquet"
    assert path.read_text() == "new"


def test_json_is_readable_and_ends_in_a_newline(tmp_path):
    write_json(tmp_path / "a.json", {"name": "好"})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "name": "好"\n}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_refuses_what_json_cannot_say(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []
