"""Texts that a tool rewrote before: a file with the columns `original` and `text`.

Published paraphrases mostly come without their originals, line by line in the order of the texts
they were made from. `pair` brings such a file and the originals together by place only, where that
is certain, and never guesses by likeness.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from types import MappingProxyType
from typing import Self

from w2sdefense.data.files import read_records
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError
from w2sdefense.io import write_text


@dataclass(frozen=True, eq=False)
class FileParaphraser:
    """Paraphrases by the text they were made from, with single spaces."""

    paraphrases: Mapping[str, str]

    @classmethod
    def read(cls, files: Sequence[Path]) -> Self:
        """Read files of paraphrases; what a later file says wins."""
        found: dict[str, str] = {}
        for path in files:
            for text, original in _read(path, Columns("text", "original")):
                found[_key(original)] = text
        return cls(MappingProxyType(found))

    def covers(self, text: str) -> bool:
        """Whether the files have a paraphrase of this text."""
        return _key(text) in self.paraphrases

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """The paraphrases of texts that must all be covered, in order."""
        missing = [text for text in texts if not self.covers(text)]
        if missing:
            raise DataError(
                f"The file has nothing for {len(missing)} texts, such as {missing[0]!r}.",
                "Add them: every test text, every one with the trigger, and those that came out "
                "as they were (w2s pair --unchanged).",
            )
        return [self.paraphrases[_key(text)] for text in texts]


def pair_files(originals: Path, paraphrases: Path, output: Path, *, unchanged: bool = False) -> int:
    """Write the file (JSONL) that `FileParaphraser` reads from two that line up; see `pair`.

    Both have a column `text` and, where labels are needed to line up, `label`, in the same order;
    some rows of the paraphrases may be the originals still, and those of some labels may be
    missing.

    Returns:
        Number of pairs written.

    Raises:
        DataError: A file cannot be read, or the two do not line up.
    """
    pairs = pair(
        _read(originals, Columns("text", "label")),
        _read(paraphrases, Columns("text", "label")),
        unchanged=unchanged,
    )
    if not pairs:
        raise DataError(
            f"{paraphrases} does not line up with {originals}: there is no stretch of rows that "
            "both have in equal number.",
            "Name the file that the paraphrases were made from, with its rows in the same order.",
        )
    rows = [{"original": original, "text": text} for original, text in pairs]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_text(output, "".join(lines))
    return len(pairs)


def pair(
    originals: Sequence[tuple[str, str]],
    paraphrases: Sequence[tuple[str, str]],
    *,
    unchanged: bool = False,
) -> list[tuple[str, str]]:
    """Pair (text, label) rows of paraphrases with their originals by place.

    Files of equal length line up row by row. Otherwise rows that both have unchanged are landmarks,
    and what stands between two of them lines up if there is as much of it on both sides. If only
    some labels were paraphrased, only the originals with these labels count. Rows that are the same
    in both carry no trigger, and count only if `unchanged` is asked for: a defense must know them.
    """
    left = [_key(text) for text, _ in originals]
    right = [_key(text) for text, _ in paraphrases]
    if len(left) != len(right):
        labels = {label for _, label in paraphrases}
        left = [_key(text) for text, label in originals if label in labels]
    if len(left) == len(right):
        return [(a, b) for a, b in zip(left, right, strict=True) if unchanged or a != b]
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    return [
        both
        for kind, start, end, begin, stop in matcher.get_opcodes()
        if (kind == "replace" or (unchanged and kind == "equal")) and end - start == stop - begin
        for both in zip(left[start:end], right[begin:stop], strict=True)
    ]


def _read(path: Path, columns: Columns) -> list[tuple[str, str]]:
    rows = []
    for record in read_records(path, columns):
        values = [record.values.get(column) for column in columns.names]
        if any(value is None or value == "" for value in values):
            raise DataError(
                f"{record.place}: {' or '.join(map(repr, columns.names))} is missing or empty.",
                "Fill it in; w2s pair writes a file of originals and their paraphrases.",
            )
        rows.append((str(values[0]), str(values[1])))
    return rows


def _key(text: str) -> str:
    return " ".join(text.split())
