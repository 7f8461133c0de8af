"""Reads paraphrases made by an external tool: a file with the columns `original` and `text`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Self

from w2sdefense.data.files import read_records
from w2sdefense.data.rows import Columns
from w2sdefense.errors import DataError


@dataclass(frozen=True, eq=False)
class FileParaphraser:
    """A mapping from original texts (see `key_of`) to paraphrases."""

    paraphrases: Mapping[str, str]

    @classmethod
    def read(cls, files: Sequence[Path]) -> Self:
        """Read files of paraphrases; later files override earlier ones."""
        found: dict[str, str] = {}
        for path in files:
            for text, original in read_columns(path, Columns("text", "original")):
                found[key_of(original)] = text
        return cls(MappingProxyType(found))

    def covers(self, text: str) -> bool:
        """Whether the files have a paraphrase of this text."""
        return key_of(text) in self.paraphrases

    def rewrite(self, texts: Sequence[str]) -> list[str]:
        """Look up the paraphrases of texts, in order; raises a `DataError` if one is missing."""
        missing = [text for text in texts if not self.covers(text)]
        if missing:
            raise DataError(
                f"The file lacks {len(missing)} texts, such as {missing[0]!r}.",
                "Add every test text, with and without the trigger, even if its paraphrase is the "
                "same text (benchmarks/pair.py --unchanged).",
            )
        return [self.paraphrases[key_of(text)] for text in texts]


def read_columns(path: Path, columns: Columns) -> list[tuple[str, str]]:
    """Read two columns of a file; a `DataError` names the line of a missing or empty value."""
    rows = []
    for record in read_records(path, columns):
        values = [record.values.get(column) for column in columns.names]
        if any(value is None or value == "" for value in values):
            raise DataError(
                f"{record.place}: {' or '.join(map(repr, columns.names))} is missing or empty.",
                "Fill it in; benchmarks/pair.py makes a file of originals and paraphrases.",
            )
        rows.append((str(values[0]), str(values[1])))
    return rows


def key_of(text: str) -> str:
    """The lookup key of a text: the text with single spaces."""
    return " ".join(text.split())
