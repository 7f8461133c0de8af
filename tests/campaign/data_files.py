"""A thousand mangled data files: each gives the right rows, or two lines that say what is wrong.

    PYTHONPATH=src:tests python tests/campaign/data_files.py

Right are all rows of lines that nobody touched, with their labels. Where a format has no checksum
(zstd and Arrow, as they are written here) a changed byte inside a text cannot be told from another
text; there the number of rows is looked at. The tests run a part of it.
"""

import csv
import io
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from campaign.checkpoints import DEEP, LFS, bomb, nothing_runs
from w2sdefense.cli.display import EXIT_CODE, run_or_explain
from w2sdefense.config import DataConfig
from w2sdefense.data import Dataset, load_dataset

Row = tuple[str, str]
ROWS: tuple[Row, ...] = tuple(
    (f'Nr. {i}: "très" bon, 电影 {i * i}', ("good", "bad")[i % 2]) for i in range(24)
)
TEXT_FORMATS = ("csv", "jsonl")
RIGHT = "read as they should be"


@dataclass(frozen=True)
class Case:
    """A file, and what may come out of it.

    Attributes:
        name: What is wrong with it.
        file: Its name.
        raw: Its content.
        kept: Rows that must be there if anything is.
        may: `load`, `fail`, or either.
        exact: Whether no other number of rows will do.
    """

    name: str
    file: str
    raw: bytes
    kept: tuple[Row, ...] = ()
    may: str = "load fail"
    exact: bool = False


def csv_of(rows: tuple[Row, ...] = ROWS, header: tuple[str, ...] = ("text", "label")) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows([header, *rows])
    return sink.getvalue()


def jsonl_of(rows: tuple[Row, ...] = ROWS) -> str:
    return "".join(json.dumps({"text": a, "label": b}, ensure_ascii=False) + "\n" for a, b in rows)


def parquet_of(table: pa.Table | None = None) -> bytes:
    sink = io.BytesIO()
    table = table or pa.table({"text": [a for a, _ in ROWS], "label": [b for _, b in ROWS]})
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def packed(raw: bytes, codec: str) -> bytes:
    return bytes(pa.compress(raw, codec, asbytes=True))


PLAIN = {"csv": csv_of().encode(), "jsonl": jsonl_of().encode()}


# Cases that are written down


def whole(name: str, file: str, raw: bytes, rows: tuple[Row, ...] = ROWS) -> Case:
    return Case(name, file, raw, rows, "load", exact=True)


def bad(name: str, file: str, raw: bytes | str) -> Case:
    return Case(name, file, raw.encode() if isinstance(raw, str) else raw, may="fail")


def encodings() -> Iterator[Case]:
    for kind, raw in PLAIN.items():
        file, text = f"a.{kind}", raw.decode()
        for mark in (b"", b"\xef\xbb\xbf"):
            for end in ("\n", "\r\n"):
                ended = mark + text.replace("\n", end).encode()
                yield whole(f"mark {mark!r}, line end {end!r}", file, ended)
        for encoding in "utf-16 utf-16-le utf-32 gb18030 cp1252 shift_jis".split():
            yield bad(encoding, file, text.encode(encoding, errors="replace"))
        yield Case("utf-7", file, text.encode("utf-7"))
        yield bad("one byte of latin-1", file, raw.replace(b"\xc3\xa8", b"\xe8", 1))
        yield bad("overlong UTF-8", file, raw.replace(b"Nr", b"\xc0\xae", 1))
        yield bad("UTF-8 of a surrogate", file, raw.replace(b"Nr", b"\xed\xa0\xbd", 1))
        for odd in ("\0", "\x1b[2J", "\u2028", "\u200b", "\x85", "\x0b", "\ufeff", "\U0001f600"):
            rows = ((f"Nr. 0 {odd} x", "good"), *ROWS[1:])
            made = csv_of(rows) if kind == "csv" else jsonl_of(rows)
            yield whole(f"{odd!r} in a text", file, made.encode(), rows)
            yield Case(f"{odd!r} alone", file, raw + odd.encode() + b"\n")


HEADERS = (
    *("text,label,text", "label,label", "Text,Label", "text ,label", '"text,label"', "text;label"),
    *("text\tlabel", "text", "", ",", "text,label,", "text,,label", "text\0,label"),
    *('"text",label"', '"text\n', "'text','label'", "x" * 200_000),
)
CSV_LINES = ("a", "a,b,c", ",", "a,", ",good", " ,good", '"a', '"a"b,good', "a,nan")
JSON_LINES = (
    *("{", "[]", "1", "null", '"text"', "{}", '{"text": "a"}', '{"label": "good"}'),
    '{"text": 1, "label": "good"}',
    '{"text": null, "label": "good"}',
    '{"text": ["a"], "label": "good"}',
    '{"text": "a", "label": ["good"]}',
    '{"text": "a", "label": {"a": 1}}',
    '{"text": "a", "label": null}',
    '{"text": "a", "label": ""}',
    '{"text": "a", "label": NaN}',
    '{"text": "a", "label": Infinity}',
    '{"text": "a", "label": 1e999}',
    '{"text": "a", "text": "b", "label": "good"}',
    '{"text": "a\\ud83d", "label": "good"}',
    '{"text": "a", "label": "\\ud83d"}',
    "{'text': 'a', 'label': 'good'}",
    '{"text": "a", "label": "good",}',
    '{"text": "a", "label": "good"} {"text": "b", "label": "bad"}',
    '{"text": "a\tb", "label": "good"}',
    '{"text": "a", "label": ' + "9" * 5000 + "}",
    '{"text": ' + "[" * 100_000,
    DEEP,
    '\ufeff{"text": "a", "label": "good"}',
)


def columns() -> Iterator[Case]:
    table, lines = csv_of(), jsonl_of()
    body = table.partition("\n")[2]
    for header in HEADERS:
        yield bad(f"header {header[:20]!r}", "a.csv", f"{header}\n{body}")
    yield bad("header after a blank line", "a.csv", f"\n{table}")
    yield Case("header twice", "a.csv", PLAIN["csv"].replace(b"\n", b"\ntext,label\n", 1), ROWS)
    yield whole("header quoted", "a.csv", f'"text","label"\n{body}'.encode())
    yield bad("no header", "a.csv", body)
    yield bad("header alone", "a.csv", "text,label\n")
    more = "\n".join(f"{line},x" for line in table.splitlines())
    yield whole("another column", "a.csv", more.encode())
    for line in CSV_LINES:
        yield bad(f"line {line!r}", "a.csv", f"{table}{line}\n")
    yield Case("quotes inside", "a.csv", f'{table}a"b"c,"good\n'.encode())
    for line in JSON_LINES:
        yield bad(f"line {line[:40]!r}", "a.jsonl", f"{lines}{line}\n")
    array = [{"text": a, "label": b} for a, b in ROWS]
    yield bad("one array", "a.jsonl", json.dumps(array))
    yield bad("indented", "a.jsonl", json.dumps(array, indent=1))
    yield whole("escaped", "a.jsonl", "".join(json.dumps(row) + "\n" for row in array).encode())
    yield whole("no line end", "a.jsonl", lines.rstrip().encode())


def long_fields() -> Iterator[Case]:
    for size in (131_073, 2_000_000):
        for word in ("x", "word ", '"', "电", "\n"):
            rows = (("Nr. 0 " + word * (size // len(word)) + "end", "good"), *ROWS[1:])
            yield whole(f"{size} of {word!r}", "a.csv", csv_of(rows).encode(), rows)
            yield whole(f"{size} of {word!r}", "a.jsonl", jsonl_of(rows).encode(), rows)
        label = "y" * size
        yield Case(f"a label of {size}", "a.csv", csv_of((*ROWS, ("a", label))).encode(), ROWS)
        yield bad(f"a quote and {size}", "a.csv", csv_of() + '"' + "x" * size)


def other_files(folder: Path) -> Iterator[Case]:
    contents = {
        "LFS": LFS.encode(),
        "pickle": b"\x80\x04]\x94.",
        "pickle that runs": bomb(folder),
        "nothing": b"",
        "a blank": b"\n",
        "ELF": b"\x7fELF" + bytes(60),
        "zip": b"PK\x03\x04" + bytes(60),
        "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
        "YAML that runs": b"!!python/object/apply:os.system ['touch ran']",
    }
    for name, raw in contents.items():
        for kind in "csv jsonl parquet csv.gz jsonl.zst parquet.gz".split():
            yield bad(f"{name} as {kind}", f"a.{kind}", raw)
    others = "json tsv txt xlsx arrow feather yaml npy pkl pt bin csv.bz2 csv.zip csv.xz pickle.gz"
    for kind in others.split():
        yield bad("another format", f"a.{kind}", PLAIN["csv"])
    for kind, raw in PLAIN.items():
        other = {"csv": "jsonl", "jsonl": "csv"}[kind]
        yield bad(f"{kind} as {other}", f"a.{other}", raw)
        yield bad(f"{kind} as parquet", "a.parquet", raw)
        yield bad(f"parquet as {kind}", f"a.{kind}", parquet_of())
        for suffix, codec in (("gz", "gzip"), ("zst", "zstd")):
            file, made = f"a.{kind}.{suffix}", packed(raw, codec)
            yield whole("whole", file, made)
            yield bad("not compressed", file, raw)
            yield bad("compressed twice", file, packed(made, codec))
            yield bad("compressed unsaid", f"a.{kind}", made)
            yield Case("rubbish behind", file, made + b"rubbish", ROWS)
            line = raw.index(b"\n") + 1
            two = packed(raw[:line], codec) + packed(raw[line:], codec)
            yield Case("two members", file, two, ROWS, exact=True)
    yield bad("gz as zst", "a.csv.zst", packed(PLAIN["csv"], "gzip"))
    yield bad("zst as gz", "a.csv.gz", packed(PLAIN["csv"], "zstd"))


def mixed_types() -> Iterator[Case]:
    texts, right = [a for a, _ in ROWS], [b for _, b in ROWS]
    size = len(texts)

    def stored(text: Any, label: Any) -> bytes:
        return parquet_of(pa.table({"text": text, "label": label}))

    for name, column in {
        "lists": pa.array([[1]] * size),
        "structs": pa.array([{"a": 1}] * size),
        "nulls": pa.nulls(size),
        "dates": pa.array([1] * size, pa.date32()),
        "bytes": pa.array([b"\xff"] * size),
        "durations": pa.array([1] * size, pa.duration("us")),
        "NaN": pa.array([float("nan")] * size),
        "infinity": pa.array([0.0, float("inf")] * (size // 2)),
        "one class": pa.array([1] * size),
    }.items():
        yield bad(f"labels: {name}", "a.parquet", stored(texts, column))
    far = pa.array([2**62] * size)
    for name, column in {
        "far times": far.cast(pa.timestamp("us")),
        "times of nowhere": far.cast(pa.timestamp("us", tz="nowhere/at-all")),
        "far durations": far.cast(pa.duration("us")),
        "far dates": pa.array([2**31 - 1] * size, pa.date32()),
        "decimals": pa.array([0, 1] * (size // 2)).cast(pa.decimal128(38, 2)),
        "half of them": pa.array([0, 1, None] * (size // 3)),
    }.items():
        yield Case(f"labels: {name}", "a.parquet", stored(texts, column))
        yield bad(f"texts: {name}", "a.parquet", stored(column, right))
    good = {
        "dictionary": pa.array(right).dictionary_encode(),
        "large": pa.array(right, pa.large_string()),
        "view": pa.array(right, pa.string_view()),
    }
    for name, column in good.items():
        yield whole(f"labels: {name}", "a.parquet", stored(texts, column))
    for name, column in {
        "numbers": pa.array(range(size)),
        "bytes": pa.array([text.encode() for text in texts]),
        "latin-1": pa.array([b"caf\xe9"] * size).view(pa.string()),
        "nulls": pa.nulls(size),
        "lists": pa.array([[text] for text in texts]),
    }.items():
        yield bad(f"texts: {name}", "a.parquet", stored(column, right))
    names = ["text", "label", "text"]
    twice = pa.Table.from_arrays([pa.array(texts), good["large"], pa.array(texts)], names=names)
    yield bad("a column twice", "a.parquet", parquet_of(twice))
    for some in (["0", 1, 1.0, True], ["a", 1], [0, "zero"], [[], "a"], [None, "a"]):
        lines = [{"text": a, "label": some[i % len(some)]} for i, a in enumerate(texts)]
        may = "fail" if [] in some or None in some else "load fail"
        raw = "\n".join(map(json.dumps, lines)).encode()
        yield Case(f"labels {some}", "a.jsonl", raw, may=may)


# Cases that are drawn


def flip(raw: bytes, rng: random.Random) -> tuple[bytes, range]:
    place = rng.randrange(len(raw))
    odd = raw[:place] + bytes([raw[place] ^ (1 << rng.randrange(8))]) + raw[place + 1 :]
    return odd, range(place, place + 1)


def cut(raw: bytes, rng: random.Random) -> tuple[bytes, range]:
    place = rng.randrange(len(raw))
    return raw[:place], range(place, len(raw))


def hole(raw: bytes, rng: random.Random) -> tuple[bytes, range]:
    start = rng.randrange(len(raw))
    end = min(len(raw), start + rng.randint(1, 100))
    return raw[:start] + bytes(end - start) * rng.randint(0, 1) + raw[end:], range(start, end)


def insert(raw: bytes, rng: random.Random) -> tuple[bytes, range]:
    place = rng.randrange(len(raw))
    odd = rng.choice([b"\0", b'"', b"\n", b"\r", b"[" * 5000, b"9" * 5000, b"\xff", b",", b"\\"])
    return raw[:place] + odd + raw[place:], range(max(place - 1, 0), place + 1)


def untouched(raw: bytes, touched: range) -> tuple[Row, ...]:
    """The rows whose lines (the first one is a header in CSV) hold none of the changed bytes."""
    first = raw.count(b"\n", 0, touched.start)
    last = raw.count(b"\n", 0, touched.stop)
    header = raw.startswith(b"text,")
    lines = [i for i in range(len(ROWS)) if not first <= i + header <= last]
    return tuple(ROWS[i] for i in lines)


def drawn(count: int, rng: random.Random) -> Iterator[Case]:
    files: list[tuple[str, bytes]] = [(f"a.{kind}", raw) for kind, raw in PLAIN.items()]
    for kind, raw in PLAIN.items():
        files += [(f"a.{kind}.gz", packed(raw, "gzip")), (f"a.{kind}.zst", packed(raw, "zstd"))]
    files += [("a.parquet", parquet_of()), ("a.parquet.gz", packed(parquet_of(), "gzip"))]
    for number in range(count):
        name, raw = files[number % len(files)]
        mangle = rng.choice((flip, flip, cut, hole, insert))
        odd, touched = mangle(raw, rng)
        if name.split(".")[-1] in TEXT_FORMATS:
            kept, exact = untouched(raw, touched), False
        else:
            kept, exact = (() if "zst" in name else ROWS), "zst" not in name
        yield Case(f"{mangle.__name__} at {touched.start}", name, odd, kept, exact=exact)


# Trying them


class Campaign:
    """Writes files into a folder and loads them.

    Args:
        folder: An empty folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cases(self, count: int, rng: random.Random) -> Iterator[Case]:
        """All that are written down, and drawn ones until there are `count`."""
        written = [*encodings(), *columns(), *long_fields(), *other_files(self.folder)]
        written += mixed_types()
        yield from written
        yield from drawn(count - len(written), rng)

    def load(self, path: Path) -> tuple[Dataset | None, str]:
        """Load a file as a command does; returns the rows, or what the user is told."""
        told = io.StringIO()
        try:
            with redirect_stderr(told), nothing_runs():
                return run_or_explain(load_dataset)(DataConfig(dataset=str(path))), ""
        except SystemExit as error:
            if error.code != EXIT_CODE:
                raise
        return None, told.getvalue()

    def complaint(self, case: Case) -> str:
        """What is wrong with how a file is read; empty if nothing is."""
        path = self.folder / case.file
        path.write_bytes(case.raw)
        try:
            data, told = self.load(path)
        except Exception as error:
            return f"{type(error).__name__}: {error!s:.200}"
        finally:
            path.unlink()
        left = [item.name for item in self.folder.iterdir()]
        if left:
            return f"leaves {left}"
        if data is None:
            lines = told.splitlines()
            marks = [line.split(" ")[0] for line in lines]
            if "fail" not in case.may or marks != ["Error:", "Fix:"]:
                return f"is refused: {told[:300]!r}"
            if not all(map(str.isprintable, lines)):
                return f"is refused: {told[:300]!r}"
            return ""
        if "load" not in case.may:
            return "is loaded"
        return _differs(case, data)

    def complaint_about(self, folder: Path) -> str:
        """What is wrong with how an Arrow folder is read; empty if nothing is."""
        data, told = self.load(folder)
        if data is None:
            return "" if len(told.splitlines()) == 2 else f"is refused: {told[:300]!r}"
        # Rows that lost their label are counted.
        rows = len(data.train + data.validation + data.test) + sum(data.dropped.values())
        return "" if rows == len(ROWS) else f"gives {rows} rows"


def _differs(case: Case, data: Dataset) -> str:
    found = Counter(
        (e.text, data.label_names[e.label]) for e in (*data.train, *data.validation, *data.test)
    )
    lost = Counter(case.kept) - found
    if lost and not data.dropped:
        return f"loses {[*lost][:2]}"
    if case.exact and sum(found.values()) != len(ROWS):
        return f"gives {sum(found.values())} rows"
    return ""


def arrow_folders(folder: Path, count: int, rng: random.Random) -> Iterator[Path]:
    """Folders of `save_to_disk` with one spoiled file."""
    whole = folder / "whole"
    datasets.Dataset.from_list([{"text": a, "label": b} for a, b in ROWS]).save_to_disk(str(whole))
    files = sorted(path.name for path in whole.iterdir())
    for number in range(count):
        place = folder / "arrow"
        shutil.copytree(whole, place)
        path = place / files[number % len(files)]
        path.write_bytes(rng.choice((flip, cut, hole, insert))(path.read_bytes(), rng)[0])
        yield place
        shutil.rmtree(place)


def main(
    count: Annotated[int, typer.Option(help="Files; a tenth of them are Arrow folders.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the drawn ones.")] = 0,
) -> None:
    """Try all files, and fail if one is read otherwise than it should."""
    began, rng = time.monotonic(), random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        campaign = Campaign(Path(name))
        for case in campaign.cases(count - count // 10, rng):
            told = campaign.complaint(case)
            found[f"{case.file}: {case.name}: {told}" if told else RIGHT] += 1
        for folder in arrow_folders(Path(other), count // 10, rng):
            told = campaign.complaint_about(folder)
            found[f"{folder}: {told}" if told else RIGHT] += 1
    typer.echo("\n".join(f"{what}: {many}" for what, many in found.items()))
    typer.echo(f"{found.total()} files in {time.monotonic() - began:.0f} s")
    raise typer.Exit(found.keys() != {RIGHT})


if __name__ == "__main__":
    typer.run(main)
