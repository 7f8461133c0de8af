"""Files of rows: what is read out of them, and what is said of those that cannot be read."""

import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from w2sdefense.data.files import read_records, refuse_pickle, split_files
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError

COLUMNS = Columns("text", "label")


def read(path, columns=COLUMNS):
    return [(r.values[columns.text], r.values[columns.label]) for r in read_records(path, columns)]


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(names="text label", **columns) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_arrays(list(columns.values()), names=names.split()), sink)
    return sink.getvalue()


MIXED_NAMES = "n text label"
MIXED = {
    "n": pa.array([1, 2, 3]),
    "text": pa.array(["a", "b", None]),
    "label": pa.array(["good", None, "bad"]).dictionary_encode(),
}


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("a.csv", 'id,label,text\n1,good,"a ""fine"",\nfilm"\n', [('a "fine",\nfilm', "good")]),
        ("a.csv", "text,,label,\na,x,1,y\n", [("a", "1")]),  # what is not read may stand twice
        ("A.CSV", "text,label\nfine,1\n", [("fine", "1")]),
        ("a.jsonl", '{"text": "a\u2028b\x85c", "label": 1}\n', [("a\u2028b\x85c", 1)]),
        (
            "a.parquet",
            parquet("n text label", **MIXED),
            [("a", "good"), ("b", None), (None, "bad")],
        ),
    ],
)
def test_what_is_read(tmp_path, name, content, rows):
    assert read(write(tmp_path, name, content)) == rows


def test_a_place_is_where_the_row_starts(tmp_path):
    path = write(tmp_path, "reviews.csv", 'text,label\n"one\ntwo\nthree",1\n\nfour,0\n')
    records = read_records(path, COLUMNS)
    assert [record.place for record in records] == [f"{path}, line 2", f"{path}, line 6"]
    assert [record.index for record in records] == [0, 1]
    path = write(tmp_path, "a.parquet", parquet(MIXED_NAMES, **MIXED))
    assert read_records(path, COLUMNS)[2].place == f"{path}, row 3"


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("w2sdefense.data.files._SMALL", 2**16)
    path = tmp_path / f"a.jsonl.{ending}"
    line = b'{"text": "a film", "label": 1}\n'
    with pa.CompressedOutputStream(path, {"gz": "gzip", "zst": "zstd"}[ending]) as file:
        file.write(line + b" " * 2**26)
    with pytest.raises(DataError, match="times its size"):
        read(path)
    with pa.CompressedOutputStream(path, {"gz": "gzip", "zst": "zstd"}[ending]) as file:
        file.write(line * 1000)
    assert len(read(path)) == 1000


def test_a_parquet_file_of_more_rows_than_bytes_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("w2sdefense.data.files._SMALL", 64)
    monkeypatch.setattr("w2sdefense.data.files._RATIO", 2)
    path = tmp_path / "a.parquet"
    same = pa.array(["a film"]).take(pa.array([0] * 100_000))
    pq.write_table(pa.table({"text": same, "label": same}), path)
    with pytest.raises(DataError, match="says it has 100,000 rows in"):
        read(path)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_csv_gives_back_whatever_a_writer_wrote(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        write = csv.writer(file, quoting=csv.QUOTE_ALL)
        write.writerows([("text", "label"), *((text, "x") for text in texts)])
    assert [text for text, _ in read(path)] == texts


def test_csv_takes_texts_of_any_length_and_leaves_the_csv_module_alone(tmp_path):
    before = csv.field_size_limit()
    ((text, _),) = read(write(tmp_path, "long.csv", f"text,label\n{'word ' * 60_000},1\n"))
    assert len(text) == 300_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("compression", ["gz", "zst"])
@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        ("csv", "text,label\ntrès bon,1\nnul,0".encode()),
        ("jsonl", '{"text": "très bon", "label": "1"}\n{"text": "nul", "label": "0"}'.encode()),
        ("parquet", parquet(text=pa.array(["très bon", "nul"]), label=pa.array(["1", "0"]))),
    ],
)
def test_compressed_files_are_read_like_plain_ones(tmp_path, kind, plain, compression):
    raw = pa.compress(plain, {"gz": "gzip", "zst": "zstd"}[compression], asbytes=True)
    path = write(tmp_path, f"train.{kind}.{compression}", raw)
    assert read(path) == [("très bon", "1"), ("nul", "0")]
    assert split_files(tmp_path) == {"train": path}
    path.write_bytes(raw[:-9])
    with pytest.raises(DataError, match=f"Cannot read .*train.{kind}.{compression}"):
        read(path)


GOOD = '{"text": "x", "label": 0}\n\n'
TWICE = {"a": pa.array(["a"]), "b": pa.array([1]), "c": pa.array(["b"])}
LATIN_1 = "text,label\nbon,1\ncafé,0\n".encode("latin-1")
BYTES = {"text": pa.array([b"fine", b"caf\xe9"]).view(pa.string()), "label": pa.array([0, 1])}
ONE_ROW = {"a": pa.array(["fine"]), "b": pa.array([5])}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        # Columns
        ("a.csv", "text,label,text\na,1,b\n", "'text' 2 times"),
        ("a.jsonl", '{"text": "a", "label": 1, "text": "b"}\n', "'text' stands in one .* twice"),
        ("a.parquet", parquet("text label text", **TWICE), "'text' 2 times"),
        ("a.csv", "text,stars\nfine,5\n", "no column 'label'.*'text', 'stars'"),
        ("a.csv", "review,label\nfine,5\n", "no column 'text'.*'review', 'label'"),
        ("a.parquet", parquet("text stars", **ONE_ROW), "no column 'label'.*'text', 'stars'"),
        ("a.parquet", parquet("review label", **ONE_ROW), "no column 'text'.*'review', 'label'"),
        # Lines
        ("a.csv", "text,label\ngood,1\nbad, really,0\n", "line 3: 3 fields, but the header has 2"),
        ("a.csv", 'text,label\ngood,1\n"bad,0\nfine,1\n', "line 3: this is not CSV"),
        ("a.jsonl", '{"text": "a", "label": ' + "[" * 100_000, "line 1: this is not JSON"),
        ("a.jsonl", '{"text": "a", "label": ' + "9" * 5000, "line 1: this is not JSON"),
        ("a.jsonl", GOOD + '{"text": "a", "label": 1', r"line 3: this is not JSON \(.*column 25\)"),
        ("a.jsonl", GOOD + '["a", 1]', "line 3: a list where an object should be"),
        ("a.jsonl", GOOD + '"a"', "line 3: a str where an object should be"),
        ("a.parquet", parquet(**BYTES), r"a\.parquet, row 2: the byte 0xe9 is not UTF-8"),
        ("a.csv", LATIN_1, "line 3: the byte 0xe9 is not UTF-8"),
        ("a.jsonl", LATIN_1, "line 3: the byte 0xe9 is not UTF-8"),
        # Files
        ("a.csv", "text,label\n", "holds no rows"),
        ("a.jsonl", "\n", "holds no rows"),
        ("a.parquet", parquet(a=pa.array([], pa.string()), b=pa.array([])), "holds no rows"),
        ("a.parquet", "text,label\n", r"a\.parquet is not a Parquet file"),
        ("a.xlsx", "", r"a\.xlsx is none of \.csv, \.jsonl, \.parquet"),
        ("a.pkl.gz", "", "is a pickle"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in caught.value.problem and caught.value.fix
    if "0xe9" in message and content is LATIN_1:
        assert f"iconv -f latin1 -t utf-8 {path} > utf8-{name}" in caught.value.fix
    if "no column" in message:
        assert "--text-column" in caught.value.fix


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read .*gone\.csv"):
        read(tmp_path / "gone.csv")


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_columns_separated_by_something_else(tmp_path, mark, quote):
    with pytest.raises(DataError, match="separated by") as caught:
        header = f"{quote}text{quote}{mark}{quote}label{quote}"
        read(write(tmp_path, "a.csv", f"{header}\nfine, all in all{mark}good\n"))
    assert repr(mark) in caught.value.problem
    assert caught.value.fix == "Separate them by commas."


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_git_lfs_pointer_is_named_in_the_error(tmp_path, name):
    with pytest.raises(DataError, match="Git LFS pointer") as caught:
        read(write(tmp_path, name, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"))
    assert caught.value.fix == f"Fetch them: git lfs pull --include {name}"


def test_utf_16_is_told_from_latin_1(tmp_path):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, "a.csv", "text,label\nbon,1\n".encode("utf-16")))
    assert "iconv -f utf-16 -t utf-8" in caught.value.fix


def test_parquet_whose_checksum_says_that_a_byte_was_changed_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    table = pa.table({"text": ["a fine film", "a dull one"], "label": [0, 1]})
    pq.write_table(table, path, write_page_checksum=True, compression="none")
    assert read(path)[0] == ("a fine film", 0)
    path.write_bytes(path.read_bytes().replace(b"a fine film", b"a vine film", 1))
    with pytest.raises(DataError, match="CRC checksum"):
        read(path)


@pytest.mark.parametrize("name", ["a.pkl", "a.PICKLE", "a.pt", "a.bin", "a.joblib"])
def test_a_pickle_is_refused_unopened(tmp_path, name):
    for look in (refuse_pickle, read):
        with pytest.raises(DataError, match="is a pickle, which can run code"):
            look(tmp_path / name)


def test_a_folder_with_files_of_several_kinds(tmp_path):
    for name in ("train.csv", "dev.jsonl", "test.parquet", "notes.txt", "extra.csv"):
        (tmp_path / name).touch()
    (tmp_path / "variants").mkdir()
    files = {"train": "train.csv", "validation": "dev.jsonl", "test": "test.parquet"}
    assert split_files(tmp_path) == {split: tmp_path / name for split, name in files.items()}
    assert split_files(tmp_path, train="extra")["train"] == tmp_path / "extra.csv"


@pytest.mark.parametrize(
    ("names", "train", "message"),
    [
        ("test.csv", "train", "holds no file train"),
        ("test.csv", "proxy_train", "holds no file proxy_train"),
        ("train.csv test.csv test.jsonl", "train", r"test\.csv and test\.jsonl for the same split"),
        ("train.csv test.pkl", "train", r"test\.pkl is a pickle"),
    ],
)
def test_a_folder_that_is_no_dataset(tmp_path, names, train, message):
    for name in names.split():
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        split_files(tmp_path, train=train)
