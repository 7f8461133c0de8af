import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.data.files import read_records, refuse_pickle, split_files
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError

COLUMNS = Columns("text", "label")


def read(path: Path, columns: Columns = COLUMNS) -> list[tuple[Any, Any]]:
    return [(r.values[columns.text], r.values[columns.label]) for r in read_records(path, columns)]


def test_csv_with_quotes_commas_and_newlines(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('id,label,text\n1,good,"a ""fine"" film,\nthey say"\n2,bad,dull\n')
    assert read(path) == [('a "fine" film,\nthey say', "good"), ("dull", "bad")]


def test_a_place_is_the_line_on_which_the_row_starts(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text('text,label\n"one\ntwo\nthree",1\n\nfour,0\n')
    records = read_records(path, COLUMNS)
    assert [record.place for record in records] == [f"{path}, line 2", f"{path}, line 6"]
    assert [record.index for record in records] == [0, 1]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_and_jsonl_with_byte_order_mark_and_any_line_end(tmp_path, newline, mark):
    table, lines = tmp_path / "a.csv", tmp_path / "a.jsonl"
    table.write_bytes(mark + newline.join(["text,label", "très bon,1", "nul,0", ""]).encode())
    lines.write_bytes(
        mark
        + newline.join(
            ['{"text": "très bon", "label": 1}', "", '{"text": "nul", "label": 0}', ""]
        ).encode()
    )
    assert read(table) == [("très bon", "1"), ("nul", "0")]
    assert read(lines) == [("très bon", 1), ("nul", 0)]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_csv_gives_back_whatever_a_writer_wrote(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(
            [("text", "label"), *((text, "x") for text in texts)]
        )
    assert [text for text, _ in read(path)] == texts


def test_csv_takes_texts_of_any_length_and_leaves_the_csv_module_alone(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"text,label\n{'word ' * 60_000},1\n")
    before = csv.field_size_limit()
    assert len(read(path)[0][0]) == 300_000
    assert csv.field_size_limit() == before


def test_csv_with_an_unquoted_comma_names_the_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\ngood,1\nbad, really,0\n")
    with pytest.raises(DataError, match=r"a\.csv, line 3: 3 fields, but the header has 2"):
        read(path)


def test_csv_with_an_unclosed_quote_names_the_line_it_starts_on(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\ngood,1\n"bad,0\nfine,1\n')
    with pytest.raises(DataError, match=r"a\.csv, line 3: this is not CSV"):
        read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_column_that_stands_twice_is_refused(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".parquet":
        columns = [pa.array(["a"]), pa.array([1]), pa.array(["b"])]
        pq.write_table(pa.Table.from_arrays(columns, names=["text", "label", "text"]), path)
    else:
        path.write_text(
            "text,label,text\na,1,b\n"
            if path.suffix == ".csv"
            else '{"text": "a", "label": 1, "text": "b"}\n'
        )
    with pytest.raises(DataError, match="'text' (2 times|stands in one object twice)"):
        read(path)


def test_columns_that_are_not_read_may_stand_twice(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,,label,\na,x,1,y\n")
    assert read(path) == [("a", "1")]


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_compressed_files_are_read_like_plain_ones(tmp_path, kind, compression):
    path = tmp_path / f"train.{kind}.{compression}"
    table = pa.table({"text": ["très bon", "nul"], "label": ["1", "0"]})
    plain = tmp_path / "plain"
    if kind == "parquet":
        pq.write_table(table, plain)
    else:
        line = '{"text": "%s", "label": "%s"}' if kind == "jsonl" else "%s,%s"
        header = ["text,label"] if kind == "csv" else []
        lines = [line % tuple(row.values()) for row in table.to_pylist()]
        plain.write_text("\n".join(header + lines), encoding="utf-8")
    codec = {"gz": "gzip", "zst": "zstd"}[compression]
    raw = pa.compress(plain.read_bytes(), codec, asbytes=True)
    path.write_bytes(raw)
    assert read(path) == [("très bon", "1"), ("nul", "0")]
    assert split_files(tmp_path) == {"train": path}
    path.write_bytes(raw[:-9])
    with pytest.raises(DataError, match=f"Cannot read .*train.{kind}.{compression}"):
        read(path)


def test_a_compressed_pickle_is_a_pickle(tmp_path):
    with pytest.raises(DataError, match="is a pickle"):
        read(tmp_path / "a.pkl.gz")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_git_lfs_pointer_is_named_in_the_error(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(DataError, match="Git LFS pointer") as caught:
        read(tmp_path / name)
    assert caught.value.fix == f"Fetch them: git lfs pull --include {name}"


def test_utf_16_is_told_from_latin_1(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\nbon,1\n".encode("utf-16"))
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.csv")
    assert "iconv -f utf-16 -t utf-8" in caught.value.fix


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000])
def test_json_that_no_parser_takes_names_the_line(tmp_path, value):
    (tmp_path / "a.jsonl").write_text('{"text": "a", "label": ' + value + "\n")
    with pytest.raises(DataError, match="line 1: this is not JSON"):
        read(tmp_path / "a.jsonl")


def test_a_line_separator_inside_a_json_string_does_not_end_the_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\u2028two\x85three", "label": 1}\n', encoding="utf-8")
    assert read(path) == [("one\u2028two\x85three", 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": 1', r"line 3: this is not JSON \(.*column 25\)"),
        ('["a", 1]', "line 3: a list where an object should be"),
        ('"a"', "line 3: a str where an object should be"),
    ],
)
def test_a_malformed_json_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x", "label": 0}\n\n' + line + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in caught.value.problem


def test_parquet_with_plain_and_dictionary_columns(tmp_path):
    path = tmp_path / "a.parquet"
    label = pa.array(["good", None, "bad"]).dictionary_encode()
    pq.write_table(pa.table({"n": [1, 2, 3], "text": ["a", "b", None], "label": label}), path)
    assert read(path) == [("a", "good"), ("b", None), (None, "bad")]
    assert read_records(path, COLUMNS)[2].place == f"{path}, row 3"


def test_parquet_with_bytes_that_are_not_text_names_the_row(tmp_path):
    path = tmp_path / "a.parquet"
    text = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"text": text, "label": [0, 1]}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2: the byte 0xe9 is not UTF-8"):
        read(path)


def test_a_broken_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_text("text,label\n")
    with pytest.raises(DataError, match=r"a\.parquet is not a Parquet file"):
        read(path)


def test_parquet_whose_checksum_says_that_a_byte_was_changed_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a fine film", "a dull one"], "label": [0, 1]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    assert read(path)[0] == ("a fine film", 0)
    path.write_bytes(path.read_bytes().replace(b"a fine film", b"a vine film", 1))
    with pytest.raises(DataError, match="CRC checksum"):
        read(path)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_latin_1_names_the_line_and_the_command_that_mends_it(tmp_path, name):
    path = tmp_path / name
    path.write_bytes("text,label\nbon,1\ncafé,0\n".encode("latin-1"))
    with pytest.raises(DataError, match="line 3: the byte 0xe9 is not UTF-8") as caught:
        read(path)
    assert f"iconv -f latin1 -t utf-8 {path} > utf8-{name}" in caught.value.fix


def write_one_row(path: Path) -> None:
    if path.suffix == ".csv":
        path.write_text("review,stars\nfine,5\n")
    else:
        pq.write_table(pa.table({"review": ["fine"], "stars": [5]}), path)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
@pytest.mark.parametrize("columns", [Columns("text", "stars"), Columns("review", "label")])
def test_a_missing_column_names_those_there_are(tmp_path, name, columns):
    write_one_row(tmp_path / name)
    missing = "text" if columns.text == "text" else "label"
    with pytest.raises(DataError, match=f"no column '{missing}'.*'review', 'stars'") as caught:
        read_records(tmp_path / name, columns)
    assert "--text-column" in caught.value.fix


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_separated_by_something_else(tmp_path, mark):
    path = tmp_path / "a.csv"
    path.write_text(f"text{mark}label\nfine, all in all{mark}good\n")
    with pytest.raises(DataError, match="separated by") as caught:
        read(path)
    assert repr(mark) in caught.value.problem
    assert caught.value.fix == "Separate them by commas."


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl"])
def test_a_file_without_rows(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": []}), path)
    else:
        path.write_text("text,label\n" if path.suffix == ".csv" else "\n")
    with pytest.raises(DataError, match="holds no rows"):
        read(path)


def test_an_unknown_format_and_an_unreadable_file(tmp_path):
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(DataError, match=r"a\.xlsx is none of \.csv, \.jsonl, \.parquet"):
        read(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match=r"Cannot read .*gone\.csv"):
        read(tmp_path / "gone.csv")


@pytest.mark.parametrize("name", ["a.pkl", "a.PICKLE", "a.pt", "a.bin", "a.joblib"])
def test_a_pickle_is_refused_unopened(tmp_path, name):
    with pytest.raises(DataError, match="is a pickle, which can run code"):
        refuse_pickle(tmp_path / name)
    with pytest.raises(DataError, match="is a pickle"):
        read(tmp_path / name)


def test_the_suffix_may_be_upper_case(tmp_path):
    (tmp_path / "A.CSV").write_text("text,label\nfine,1\n")
    assert read(tmp_path / "A.CSV") == [("fine", "1")]


def test_a_folder_with_files_of_several_kinds(tmp_path):
    for name in ("train.csv", "dev.jsonl", "test.parquet", "notes.txt", "extra.csv"):
        (tmp_path / name).touch()
    (tmp_path / "variants").mkdir()
    assert split_files(tmp_path) == {
        "train": tmp_path / "train.csv",
        "validation": tmp_path / "dev.jsonl",
        "test": tmp_path / "test.parquet",
    }
    assert split_files(tmp_path, train="extra")["train"] == tmp_path / "extra.csv"


def test_a_folder_without_a_training_file(tmp_path):
    (tmp_path / "test.csv").touch()
    with pytest.raises(DataError, match="holds no file train"):
        split_files(tmp_path)
    with pytest.raises(DataError, match="holds no file proxy_train"):
        split_files(tmp_path, train="proxy_train")


def test_a_folder_with_two_files_for_one_split(tmp_path):
    for name in ("train.csv", "test.csv", "test.jsonl"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"test\.csv and test\.jsonl for the same split"):
        split_files(tmp_path)


def test_a_folder_with_a_pickle_as_split(tmp_path):
    for name in ("train.csv", "test.pkl"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"test\.pkl is a pickle"):
        split_files(tmp_path)
