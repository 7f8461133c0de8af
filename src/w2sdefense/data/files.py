"""Reads CSV, JSON lines and Parquet files, and folders of them.

Files are read whole into memory, as UTF-8 with or without a byte order mark; `.gz` and `.zst` files
are decompressed. Errors name file and line (row for Parquet). CSV means commas, double quotes and a
header; other dialects, and JSON files with a single array, are not supported. Pickles are refused
unopened, because opening one can run code.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from w2sdefense.data.rows import Columns, Record, missing_column
from w2sdefense.data.splits import pick_splits
from w2sdefense.data.types import Split
from w2sdefense.errors import DataError, reading, reason_of

PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".bin"})
"""Suffixes of files that may be pickles, of PyTorch and others."""

_COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
_SMALL, _RATIO = 2**26, 200
"""Limits against decompression bombs: a file may unpack to the first number of bytes or to the
second number times its size, whichever is more."""
_LFS = b"version https://git-lfs"
_LONGEST_FIELD = 2**31 - 1  # by default, the csv module refuses fields above 131,072 characters


def read_records(path: Path, columns: Columns) -> list[Record]:
    """Read a `.csv`, `.jsonl` or `.parquet` file, possibly compressed (`.gz`, `.zst`).

    Raises:
        DataError: The file is of another kind, cannot be read, is malformed, lacks a column or has
            it twice, or is empty.
    """
    refuse_pickle(path)
    reader = _READERS.get(stem_and_kind(path)[1])
    if reader is None:
        raise DataError(
            f"{path} is none of {', '.join(_READERS)} (nor one of them as .gz or .zst).",
            "Convert it to one of these formats.",
        )
    with reading(
        DataError, f"Cannot read {path}", "Check the path and the file, or export it again."
    ):
        records = list(reader(path, _contents(path), columns))
    if not records:
        raise DataError(f"{path} holds no rows.", "Fill it, or name another file.")
    return records


def stem_and_kind(path: Path) -> tuple[str, str]:
    """Name and format of a file: `train` and `.jsonl` of `train.JSONL.gz`."""
    inner = Path(path.stem) if path.suffix.lower() in _COMPRESSED else path
    return inner.stem, inner.suffix.lower()


def refuse_pickle(path: Path) -> None:
    """Refuse a file whose name says that it is a pickle."""
    if stem_and_kind(path)[1] in PICKLES:
        raise DataError(
            f"{path} is a pickle, which can run code when it is opened.",
            "Export the data as CSV, JSONL or Parquet.",
        )


def looks_like_file(name: str) -> bool:
    """Whether a name that does not exist looks like a file or folder rather than a hub id."""
    kinds = _READERS.keys() | PICKLES
    return stem_and_kind(Path(name))[1] in kinds or name.startswith(("/", "./", "../", "~"))


def split_files(folder: Path, train: str | None = None) -> dict[Split, Path]:
    """Find the files of a folder that hold its splits; `train` names another training file."""
    known = _READERS.keys() | PICKLES
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        stem, kind = stem_and_kind(path)
        if path.is_file() and kind in known:
            files.setdefault(stem, []).append(path)
    chosen = pick_splits(files)
    if train is not None:
        # A file used for training cannot also be a held-out split.
        chosen = {split: stem for split, stem in chosen.items() if stem != train}
        chosen["train"] = train
    if chosen.get("train") not in files:
        raise DataError(
            f"{folder} holds no file {train or 'train'} ({', '.join(_READERS)}).",
            "Name the files train, validation and test, or name a single file.",
        )
    return {split: _only_file(files[stem]) for split, stem in chosen.items()}


def _only_file(candidates: list[Path]) -> Path:
    if len(candidates) > 1:
        names = " and ".join(path.name for path in candidates)
        raise DataError(
            f"{candidates[0].parent} holds {names} for the same split.", "Keep one of them."
        )
    refuse_pickle(candidates[0])
    return candidates[0]


def _contents(path: Path) -> bytes:
    raw = path.read_bytes()
    if raw.startswith(_LFS):
        raise DataError(
            f"{path} is a Git LFS pointer: the data themselves are not here.",
            f"Fetch them: git lfs pull --include {path.name}",
        )
    compression = _COMPRESSED.get(path.suffix.lower())
    if compression is None:
        return raw
    import pyarrow as pa

    limit = max(_SMALL, _RATIO * len(raw))
    with pa.CompressedInputStream(pa.BufferReader(raw), compression) as stream:
        contents: bytes = stream.read(limit + 1)
    if len(contents) > limit:
        raise DataError(
            f"{path} expands to over {_RATIO} times its size, which text does not.",
            "Decompress it yourself if you trust it.",
        )
    return contents


def _decode(path: Path, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        encoding = "utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "latin1"
        raise DataError(
            f"{path}, line {line}: the byte 0x{raw[error.start]:02x} is not UTF-8.",
            f"Save it as UTF-8, for example: iconv -f {encoding} -t utf-8 {path} "
            f"> utf8-{path.name}",
        ) from None


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_csv(path: Path, raw: bytes, columns: Columns) -> Iterator[Record]:
    text = _decode(path, raw)
    first = text.partition("\n")[0]
    for mark in (";", "\t", "|"):
        if mark in first and "," not in first:
            raise DataError(
                f"{path}: the columns are separated by {mark!r}.", "Separate them by commas."
            )
    # strict: otherwise an unclosed quote would turn the rest of the file into one text.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    try:
        with _long_fields():
            header = next(reader, [])
            _require_columns(path, header, columns)
            index = 0
            line = reader.line_num + 1
            for fields in reader:
                place = f"{path}, line {line}"
                if fields and len(fields) != len(header):
                    raise DataError(
                        f"{place}: {len(fields)} fields, but the header has {len(header)}.",
                        "Put quotes around texts that hold commas.",
                    )
                if fields:
                    yield Record(index, place, dict(zip(header, fields, strict=True)))
                    index += 1
                line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: this is not CSV ({error}).",
            'Put quotes around texts, and write a quote inside a text as "".',
        ) from None


def _read_jsonl(path: Path, raw: bytes, columns: Columns) -> Iterator[Record]:
    index = 0
    # Not splitlines(): JSON strings may contain unescaped line separators such as U+2028.
    for number, line in enumerate(_decode(path, raw).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line, object_pairs_hook=_object)
        # Also raised for too deep nesting, and for integers of more than 4,300 digits.
        except (ValueError, RecursionError) as error:
            reason = reason_of(error)
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg}, column {error.colno}"
            raise DataError(
                f"{place}: this is not JSON ({reason}).",
                'Write one object per line: {"text": "...", "label": "..."}',
            ) from None
        if not isinstance(values, dict):
            raise DataError(
                f"{place}: a {type(values).__name__} where an object should be.",
                'Write one object per line: {"text": "...", "label": "..."}',
            )
        yield Record(index, place, values)
        index += 1


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r:.60} stands in one object twice")
    return values


def _read_parquet(path: Path, raw: bytes, columns: Columns) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with (
        reading(DataError, f"{path} is not a Parquet file that can be read", "Export it again."),
        pq.ParquetFile(pa.BufferReader(raw), page_checksum_verification=True) as file,
    ):
        _require_columns(path, file.schema_arrow.names, columns)
        if file.metadata.num_rows > max(_SMALL // 64, _RATIO * len(raw)):
            raise DataError(
                f"{path} says it has {file.metadata.num_rows:,} rows in {len(raw):,} bytes.",
                "Export it again.",
            )
        table = file.read(columns=list(columns.names))
    for index, row in enumerate(zip(*map(table.column, columns.names), strict=True)):
        place = f"{path}, row {index + 1}"
        with reading(DataError, place, "Export the file with UTF-8 text."):
            values = {name: value.as_py() for name, value in zip(columns.names, row, strict=True)}
        yield Record(index, place, values)


def _require_columns(path: Path, available: Sequence[str], columns: Columns) -> None:
    for column in columns.names:
        if column not in available:
            raise missing_column(str(path), column, available)
        if available.count(column) > 1:
            raise DataError(
                f"{path} has the column {column!r} {available.count(column)} times.",
                "Rename or remove all but one of them.",
            )


_READERS: dict[str, Callable[[Path, bytes, Columns], Iterator[Record]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
